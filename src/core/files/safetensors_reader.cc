#include "core/files/mapped_file.h"
#include "core/files/safetensors_header.h"

#include <saccade/error.h>
#include <saccade/safetensors.h>

#include <fmt/format.h>

#include <cstring>
#include <utility>

namespace saccade {
namespace {

// The header's JSON, within the bytes of a file.
std::string_view find_header(std::span<const std::byte> bytes) {
  std::uint64_t length = 0;
  if (bytes.size() < kHeaderLengthBytes) {
    throw InvalidArgument(fmt::format("{} bytes are too few for a safetensors file, which needs {}",
                                      bytes.size(), kHeaderLengthBytes));
  }
  std::memcpy(&length, bytes.data(), kHeaderLengthBytes);
  if (length > SafetensorsFile::kMaxHeaderBytes) {
    throw InvalidArgument(
        fmt::format("the header has {} bytes, but may have {}; this is no safetensors file", length,
                    SafetensorsFile::kMaxHeaderBytes));
  }
  bytes = bytes.subspan(kHeaderLengthBytes);
  if (length > bytes.size()) {
    throw InvalidArgument(
        fmt::format("the header has {} bytes, but only {} are left; the file is "
                    "cut, or no safetensors file",
                    length, bytes.size()));
  }
  return {reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(length)};
}

}  // namespace

SafetensorsFile SafetensorsFile::open(const std::filesystem::path& path) {
  const auto mapping = std::make_shared<const MappedFile>(path);
  try {
    SafetensorsFile file = parse(mapping->bytes());
    file.mapping_ = mapping;
    return file;
  } catch (const InvalidArgument& error) {
    throw InvalidArgument(fmt::format("{}: {}", path.string(), error.what()));
  }
}

SafetensorsFile SafetensorsFile::parse(std::span<const std::byte> bytes) {
  const std::string_view json = find_header(bytes);
  const std::span<const std::byte> data = bytes.subspan(kHeaderLengthBytes + json.size());
  SafetensorsHeader header = parse_header(json);
  check_layout(header, data.size());
  SafetensorsFile file;
  for (TensorEntry& entry : header.tensors) {
    StoredTensor tensor{entry.dtype, std::move(entry.shape),
                        data.subspan(entry.begin, entry.end - entry.begin)};
    if (!file.tensors_.try_emplace(entry.name, std::move(tensor)).second) {
      throw InvalidArgument(fmt::format("the header has {} twice", quote(entry.name)));
    }
  }
  file.metadata_ = std::move(header.metadata);
  return file;
}

TensorView SafetensorsFile::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw InvalidArgument(
        fmt::format("the file has no tensor {}, but {} others", quote(name), tensors_.size()));
  }
  const StoredTensor& stored = found->second;
  const std::optional<DType> dtype = computed_dtype(stored.dtype);
  if (!dtype) {
    throw Unsupported(fmt::format(
        "tensor {} has dtype {}, but saccade computes with F16, BF16, F32, F64 and I32; its bytes "
        "can be read",
        quote(name), name_of(stored.dtype)));
  }
  if (stored.shape.size() > TensorView::kMaxRank) {
    throw Unsupported(fmt::format("tensor {} has {} dimensions, but saccade takes at most {}",
                                  quote(name), stored.shape.size(), TensorView::kMaxRank));
  }
  if (reinterpret_cast<std::uintptr_t>(stored.bytes.data()) % size_of(*dtype) != 0) {
    throw Unsupported(fmt::format(
        "tensor {} does not start at a multiple of {} bytes, as its dtype {} needs; write the "
        "file again with a current safetensors package, or copy the tensor's bytes",
        quote(name), size_of(*dtype), name_of(stored.dtype)));
  }
  return TensorView::contiguous(stored.bytes.data(), *dtype, stored.shape);
}

}  // namespace saccade

#include "core/files/safetensors_header.h"
#include "core/require.h"

#include <saccade/error.h>
#include <saccade/output_file.h>
#include <saccade/safetensors.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace saccade {
namespace {

// A tensor's entry in the header, without its place, and where its elements come from.
struct Item {
  TensorEntry entry;
  const TensorSource* source;
};

TensorEntry describe(const std::string& name, const TensorView& view) {
  require_host("tensor " + quote(name), view.device);
  return {name, stored_dtype(view.dtype), {view.shape.begin(), view.shape.begin() + view.rank}};
}

TensorEntry describe(const std::string& name, const StoredTensor& stored) {
  return {name, stored.dtype, stored.shape};
}

bool has_bytes(const TensorView& view, std::uint64_t needed) {
  return view || needed == 0;
}

bool has_bytes(const StoredTensor& stored, std::uint64_t needed) {
  return stored.bytes.size() == needed;
}

// The entry of one tensor, with its bytes counted from 0.
TensorEntry describe(const std::string& name, const TensorSource& source) {
  TensorEntry entry =
      std::visit([&](const auto& tensor) { return describe(name, tensor); }, source);
  const std::optional<std::uint64_t> needed = byte_count(entry.dtype, entry.shape);
  if (!needed ||
      !std::visit([&](const auto& tensor) { return has_bytes(tensor, *needed); }, source)) {
    throw InvalidArgument(
        fmt::format("tensor {} ({} of shape [{}]) is missing, has other bytes than its shape "
                    "needs, or extents that no file can hold",
                    quote(name), name_of(entry.dtype), fmt::join(entry.shape, ", ")));
  }
  entry.end = *needed;
  return entry;
}

std::vector<Item> arrange(const TensorSources& tensors) {
  std::vector<Item> items;
  for (const auto& [name, source] : tensors) {
    if (name == kMetadataName) {
      throw InvalidArgument(fmt::format("no tensor may be named {}", quote(name)));
    }
    items.push_back({describe(name, source), &source});
  }
  std::ranges::stable_sort(items, std::ranges::greater{},
                           [](const Item& item) { return item.entry.dtype; });
  std::uint64_t offset = 0;
  for (Item& item : items) {
    item.entry.begin = offset;
    offset = item.entry.end += offset;
  }
  return items;
}

bool is_dense(const TensorView& view) {
  std::int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    if (view.shape[i] > 1 && view.strides[i] != stride) return false;
    stride *= view.shape[i];
  }
  return true;
}

// Elements of a strided tensor in row-major order, gathered in blocks.
void append_strided(OutputFile& file, const TensorView& view) {
  const auto* data = static_cast<const std::byte*>(view.data);
  const auto size = static_cast<std::int64_t>(size_of(view.dtype));
  std::vector<std::byte> block;
  constexpr std::size_t kBlockBytes = 1 << 20;
  block.reserve(kBlockBytes);
  std::array<std::int64_t, TensorView::kMaxRank> index{};
  std::int64_t offset = 0;
  for (std::int64_t left = view.element_count(); left > 0; --left) {
    block.insert(block.end(), data + offset * size, data + (offset + 1) * size);
    if (block.size() == kBlockBytes || left == 1) {
      file.append(block);
      block.clear();
    }
    for (int i = view.rank - 1; i >= 0; --i) {
      offset += view.strides[i];
      if (++index[i] < view.shape[i]) break;
      offset -= view.strides[i] * std::exchange(index[i], 0);
    }
  }
}

void append(OutputFile& file, const TensorView& view) {
  if (!is_dense(view)) return append_strided(file, view);
  const std::size_t bytes = static_cast<std::size_t>(view.element_count()) * size_of(view.dtype);
  file.append(std::span(static_cast<const std::byte*>(view.data), bytes));
}

void append(OutputFile& file, const StoredTensor& stored) {
  file.append(stored.bytes);
}

}  // namespace

void write_safetensors(const std::filesystem::path& path,
                       const TensorSources& tensors,
                       const FileMetadata& metadata) {
  const std::vector<Item> items = arrange(tensors);
  SafetensorsHeader header{metadata, {}};
  for (const Item& item : items) header.tensors.push_back(item.entry);
  const std::string header_bytes = encode_header(header);

  OutputFile file(path);
  file.append(header_bytes);
  for (const Item& item : items) {
    std::visit([&](const auto& tensor) { append(file, tensor); }, *item.source);
  }
  file.commit();
}

}  // namespace saccade

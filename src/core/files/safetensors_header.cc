#include "core/files/safetensors_header.h"

#include <saccade/error.h>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace saccade {
namespace {

// Lengths and elements are little-endian in files, and are read as they are.
static_assert(std::endian::native == std::endian::little);

void check_bytes(const TensorEntry& entry) {
  const std::string what = fmt::format("tensor {} ({} of shape [{}])", quote(entry.name),
                                       name_of(entry.dtype), fmt::join(entry.shape, ", "));
  const std::optional<std::uint64_t> needed = byte_count(entry.dtype, entry.shape);
  if (!needed) {
    throw InvalidArgument(fmt::format(
        "{} needs a number of bits that does not fit into 63 bits or ends within a byte", what));
  }
  if (entry.begin > entry.end || entry.end - entry.begin != *needed) {
    throw InvalidArgument(fmt::format("{} has data_offsets [{}, {}], but needs {} bytes", what,
                                      entry.begin, entry.end, *needed));
  }
}

// Throws nlohmann::json::type_error for text that is not UTF-8.
std::string to_json(const TensorEntry& entry) {
  return fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                     nlohmann::json(entry.name).dump(), name_of(entry.dtype),
                     fmt::join(entry.shape, ","), entry.begin, entry.end);
}

std::string to_json(const SafetensorsHeader& header) {
  std::vector<std::string> members;
  if (!header.metadata.empty()) {
    members.push_back(
        fmt::format("\"{}\":{}", kMetadataName, nlohmann::json(header.metadata).dump()));
  }
  for (const TensorEntry& entry : header.tensors) members.push_back(to_json(entry));
  return fmt::format("{{{}}}", fmt::join(members, ","));
}

}  // namespace

std::string quote(std::string_view text) {
  constexpr std::size_t kMostBytes = 64;
  const bool is_long = text.size() > kMostBytes;
  const nlohmann::json value = std::string(text.substr(0, kMostBytes)) + (is_long ? "..." : "");
  constexpr bool kEscapeAllButAscii = true;
  return value.dump(-1, ' ', kEscapeAllButAscii, nlohmann::json::error_handler_t::replace);
}

std::optional<std::uint64_t> byte_count(StoredDType dtype, std::span<const std::int64_t> shape) {
  std::int64_t bits = bits_of(dtype);
  bool is_empty = false;
  for (const std::int64_t extent : shape) {
    if (extent < 0) return std::nullopt;
    is_empty = is_empty || extent == 0;
    if (__builtin_mul_overflow(bits, std::max<std::int64_t>(extent, 1), &bits)) return std::nullopt;
  }
  if (is_empty) return 0;
  if (bits % 8 != 0) return std::nullopt;
  return static_cast<std::uint64_t>(bits) / 8;
}

void check_layout(const SafetensorsHeader& header, std::uint64_t data_bytes) {
  std::vector<const TensorEntry*> entries;
  for (const TensorEntry& entry : header.tensors) {
    check_bytes(entry);
    entries.push_back(&entry);
  }
  std::ranges::sort(entries, {},
                    [](const TensorEntry* entry) { return std::pair(entry->begin, entry->end); });
  std::uint64_t covered = 0;
  for (const TensorEntry* entry : entries) {
    if (entry->begin != covered) {
      throw InvalidArgument(fmt::format(
          "tensor {} starts at byte {} of the data, but must start at byte {}, where the one "
          "before it ends",
          quote(entry->name), entry->begin, covered));
    }
    covered = entry->end;
  }
  if (covered != data_bytes) {
    throw InvalidArgument(
        fmt::format("the tensors have {} bytes, but {} bytes follow the header; the file is cut "
                    "or has a rest",
                    covered, data_bytes));
  }
}

std::string encode_header(const SafetensorsHeader& header) {
  std::string json;
  try {
    json = to_json(header);
  } catch (const nlohmann::json::type_error&) {
    throw InvalidArgument("a tensor's name or an entry of the metadata is not UTF-8");
  }
  json.resize((json.size() + kHeaderLengthBytes - 1) / kHeaderLengthBytes * kHeaderLengthBytes,
              ' ');
  if (json.size() > SafetensorsFile::kMaxHeaderBytes) {
    throw InvalidArgument(
        fmt::format("the header needs {} bytes, but may have {}; write fewer tensors into a file",
                    json.size(), SafetensorsFile::kMaxHeaderBytes));
  }
  const std::uint64_t length = json.size();
  std::string prefix(kHeaderLengthBytes, '\0');
  std::memcpy(prefix.data(), &length, kHeaderLengthBytes);
  return prefix + json;
}

}  // namespace saccade

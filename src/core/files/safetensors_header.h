#pragma once

#include <saccade/safetensors.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// The header of a safetensors file: what it says, and what must be true of it.

namespace saccade {

// The name by which a header holds metadata: no tensor may bear it.
inline constexpr std::string_view kMetadataName = "__metadata__";

// The length before the header; headers are padded so that the elements start at a multiple of it.
inline constexpr std::size_t kHeaderLengthBytes = 8;

struct TensorEntry {
  std::string name;
  StoredDType dtype = StoredDType::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t begin = 0, end = 0;  // bytes, from the end of the header
};

struct SafetensorsHeader {
  FileMetadata metadata;
  std::vector<TensorEntry> tensors;
};

// Text of a file as part of a message: in quotes, escaped, and not longer than a line.
std::string quote(std::string_view text);

// Bytes of a dense tensor. Absent where extents are negative, where the product of the extents
// (zeros counted as ones) and of the bits of an element does not fit into 63 bits, or where
// elements of less than a byte end within one.
std::optional<std::uint64_t> byte_count(StoredDType dtype, std::span<const std::int64_t> shape);

// Reads the JSON. Throws InvalidArgument unless it has the form that safetensors.h describes, with
// known dtypes; a tensor's name may be there twice.
SafetensorsHeader parse_header(std::string_view json);

// Throws InvalidArgument unless each tensor has the bytes that its shape needs, and all of them
// together cover [0, data_bytes) once.
void check_layout(const SafetensorsHeader& header, std::uint64_t data_bytes);

// Length and JSON, padded, with tensors in the given order. Throws InvalidArgument for text that is
// not UTF-8 and for more than kMaxHeaderBytes.
std::string encode_header(const SafetensorsHeader& header);

}  // namespace saccade

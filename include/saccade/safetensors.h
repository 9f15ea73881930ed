#pragma once

#include <saccade/tensor_view.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

// Tensors in files of the safetensors format: eight bytes with the length of a header (u64,
// little-endian), the header (a JSON object), then the elements of all tensors without gaps.
//   {"__metadata__": {"key": "text", ...},
//    "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
// Offsets count bytes from the end of the header. Elements are dense, row-major, little-endian.

namespace saccade {

// What the format can store, in the order in which a file holds it, last first.
enum class StoredDType : std::uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64,
};

std::string_view name_of(StoredDType dtype);             // as files spell it: "BOOL", "F8_E4M3"
int bits_of(StoredDType dtype);                          // of one element
std::optional<DType> computed_dtype(StoredDType dtype);  // absent = saccade only stores it
StoredDType stored_dtype(DType dtype);

// Borrowed elements of any stored dtype: dense, row-major, perhaps not aligned.
struct StoredTensor {
  StoredDType dtype = StoredDType::f32;
  std::vector<std::int64_t> shape{};
  std::span<const std::byte> bytes{};
};

using FileMetadata = std::map<std::string, std::string, std::less<>>;

// A file that was read. Copies share the mapping.
class SafetensorsFile {
 public:
  // A longer header is refused, as other readers of the format do.
  static constexpr std::size_t kMaxHeaderBytes = 100'000'000;

  // Maps the file into memory, read-only: only the pages that are touched are read, and the system
  // may drop them again. The file may be replaced by another meanwhile (OutputFile does that), but
  // not be cut or written in place: touching what is gone ends the process.
  // Throws FileError, and like parse.
  static SafetensorsFile open(const std::filesystem::path& path);

  // A file that is in memory already. The bytes are borrowed and outlive every copy of the result.
  // Throws InvalidArgument unless all of this holds: the header lies within the bytes and is the
  // JSON described above, UTF-8, from its first byte; no name, key or field is there twice; dtypes
  // are known; extents are not negative, and the bits of a tensor (zero extents taken for ones)
  // number less than 2^63; the bytes of every tensor are as many as its shape needs; and together
  // they cover what follows the header, without gap, overlap or rest.
  static SafetensorsFile parse(std::span<const std::byte> bytes);

  const FileMetadata& metadata() const { return metadata_; }
  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }

  // A read-only view of one tensor, valid while a copy of this file lives; writing to it ends the
  // process. Nothing is copied, so a tensor whose first byte is not aligned for its dtype is
  // refused; what write_safetensors or a current safetensors package wrote is aligned.
  // Throws InvalidArgument for a name that is not there, Unsupported for a tensor that is not
  // aligned, has a dtype that saccade does not compute with, or more than TensorView::kMaxRank
  // dimensions.
  TensorView tensor(std::string_view name) const;

 private:
  std::shared_ptr<const void> mapping_;
  FileMetadata metadata_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

// What to write under a name. Views may have any strides; their elements are written densely.
using TensorSource = std::variant<TensorView, StoredTensor>;
using TensorSources = std::map<std::string, TensorSource, std::less<>>;

// Writes a file, replacing the one that bears the name: whole or not at all (see OutputFile). Equal
// arguments give equal bytes, those that the safetensors package writes: the widest dtypes first,
// so that every tensor is aligned for its dtype, then by name; metadata by key, absent where empty.
// Throws FileError; InvalidArgument for text that is not UTF-8, a tensor named "__metadata__",
// tensors that are absent or whose bytes do not match their shape, and a header that is too long;
// Unsupported for tensors on a device. Nothing is written before these checks.
void write_safetensors(const std::filesystem::path& path,
                       const TensorSources& tensors,
                       const FileMetadata& metadata = {});

}  // namespace saccade

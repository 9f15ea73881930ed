#include "core/files/safetensors_header.h"

#include <saccade/error.h>
#include <saccade/safetensors.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <vector>

// Whatever the bytes are, parse() returns or throws InvalidArgument; what it returns lies within
// the bytes, and can be written and read again.

namespace saccade {
namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

// Reads every byte: AddressSanitizer sees whether it is one of the input's.
unsigned sum(std::span<const std::byte> bytes) {
  unsigned total = 0;
  for (const std::byte byte : bytes) total += std::to_integer<unsigned>(byte);
  return total;
}

void touch(const SafetensorsFile& file) {
  volatile unsigned total = 0;
  for (const auto& [name, stored] : file.tensors()) {
    total = total + sum(stored.bytes);
    try {
      const TensorView view = file.tensor(name);
      require(view.data == stored.bytes.data());
      require(view.element_count() * size_of(view.dtype) == stored.bytes.size());
    } catch (const Unsupported&) {
    }
  }
}

// A file with the same contents, in the order of names.
std::vector<std::byte> encode(const SafetensorsFile& file) {
  SafetensorsHeader header{file.metadata(), {}};
  std::vector<std::byte> data;
  for (const auto& [name, tensor] : file.tensors()) {
    const std::uint64_t begin = data.size();
    data.insert(data.end(), tensor.bytes.begin(), tensor.bytes.end());
    header.tensors.push_back({name, tensor.dtype, tensor.shape, begin, data.size()});
  }
  const std::string prefix = encode_header(header);
  const auto prefix_bytes = std::as_bytes(std::span(prefix));
  data.insert(data.begin(), prefix_bytes.begin(), prefix_bytes.end());
  return data;
}

void require_equal(const SafetensorsFile& a, const SafetensorsFile& b) {
  require(a.metadata() == b.metadata());
  require(std::ranges::equal(a.tensors(), b.tensors(), [](const auto& x, const auto& y) {
    return x.first == y.first && x.second.dtype == y.second.dtype &&
           x.second.shape == y.second.shape && std::ranges::equal(x.second.bytes, y.second.bytes);
  }));
}

std::optional<SafetensorsFile> parse(std::span<const std::byte> bytes) {
  try {
    return SafetensorsFile::parse(bytes);
  } catch (const InvalidArgument&) {
    return std::nullopt;
  }
}

}  // namespace
}  // namespace saccade

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = saccade::parse(std::as_bytes(std::span(data, size)));
  if (!file) return 0;
  saccade::touch(*file);
  const std::vector<std::byte> again = saccade::encode(*file);
  saccade::require_equal(saccade::SafetensorsFile::parse(again), *file);
  return 0;
}

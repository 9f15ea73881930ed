#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace saccade::test {

// A file with this header, followed by the bytes 0, 1, 2, ...
inline std::vector<std::byte> safetensors_bytes(std::string_view header, std::size_t data_bytes) {
  std::vector<std::byte> bytes(sizeof(std::uint64_t) + header.size() + data_bytes);
  const std::uint64_t length = header.size();
  std::memcpy(bytes.data(), &length, sizeof(length));
  std::memcpy(bytes.data() + sizeof(length), header.data(), header.size());
  for (std::size_t i = 0; i < data_bytes; ++i) {
    bytes[sizeof(length) + header.size() + i] = static_cast<std::byte>(i);
  }
  return bytes;
}

}  // namespace saccade::test

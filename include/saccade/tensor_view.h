#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>

namespace saccade {

enum class DType : std::uint8_t { f16, bf16, f32, f64, i32 };

std::size_t size_of(DType dtype);       // bytes of one element
std::string_view name_of(DType dtype);  // "f16", "bf16", ...

enum class DeviceType : std::uint8_t { cpu, cuda };

struct Device {
  DeviceType type = DeviceType::cpu;
  int index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

// A borrowed tensor of up to four dimensions: where its elements lie, never who owns them.
// The memory must outlive the call that the view is passed to. Whether a call reads or writes it is
// said by the parameter's documentation; inputs are never written.
// A default-constructed view means "absent" wherever a tensor is optional.
struct TensorView {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  DType dtype = DType::f32;
  Device device{};
  int rank = 0;
  std::array<std::int64_t, kMaxRank> shape{};
  std::array<std::int64_t, kMaxRank> strides{};  // in elements

  // A view of densely packed elements in row-major order.
  static TensorView contiguous(const void* data,
                               DType dtype,
                               std::initializer_list<std::int64_t> shape,
                               Device device = {});
  static TensorView contiguous(const void* data,
                               DType dtype,
                               std::span<const std::int64_t> shape,
                               Device device = {});

  explicit operator bool() const { return data != nullptr; }

  // The same memory with dimensions `a` and `b` exchanged: BSHD <-> BHSD without a copy.
  TensorView transposed(int a, int b) const;

  std::int64_t element_count() const;
};

}  // namespace saccade

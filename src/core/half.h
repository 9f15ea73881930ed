#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

// Scalar conversions of 16-bit floats, which are carried as their bits. A float argument converts
// to double exactly, so double_to_f16 and double_to_bf16 round once from either type.

namespace saccade {
namespace half_detail {

// Rounds to the nearest 16-bit float with kMantissaBits stored mantissa bits, ties to even. Too
// large becomes infinity, too small a subnormal or zero; NaN stays NaN and keeps the upper bits of
// its payload.
template <int kMantissaBits>
inline std::uint16_t narrow(double value) {
  constexpr int kBias = (1 << (14 - kMantissaBits)) - 1;
  constexpr std::uint64_t kInfinity = 0x7FFF >> kMantissaBits << kMantissaBits;
  constexpr std::uint64_t kQuiet = std::uint64_t{1} << (kMantissaBits - 1);
  constexpr std::uint64_t kImplicitOne = std::uint64_t{1} << 52;

  const auto bits = std::bit_cast<std::uint64_t>(value);
  const std::uint64_t sign = bits >> 48 & 0x8000;
  const std::uint64_t mantissa = bits & (kImplicitOne - 1);
  const int exponent = static_cast<int>(bits >> 52 & 0x7FF) - 1023 + kBias;

  if (std::isnan(value)) {
    return static_cast<std::uint16_t>(sign | kInfinity | kQuiet | mantissa >> (52 - kMantissaBits));
  }
  if (exponent > 2 * kBias) return static_cast<std::uint16_t>(sign | kInfinity);

  // Below the smallest normal exponent each further step loses one bit. A shift of 54 leaves less
  // than half a unit, which rounds to zero.
  const int shift = std::min(52 - kMantissaBits + std::max(0, 1 - exponent), 54);
  const std::uint64_t significand = mantissa | kImplicitOne;
  const std::uint64_t half_unit = std::uint64_t{1} << (shift - 1);
  const std::uint64_t rest = significand & (2 * half_unit - 1);
  std::uint64_t rounded = significand >> shift;
  rounded += rest > half_unit || (rest == half_unit && (rounded & 1));

  // The implicit one adds 1 to the exponent, and a carry out of the mantissa another 1: up to
  // infinity, whose bits follow those of the largest finite value.
  const auto below = static_cast<std::uint64_t>(std::max(0, exponent - 1)) << kMantissaBits;
  return static_cast<std::uint16_t>(sign | (below + rounded));
}

}  // namespace half_detail

inline std::uint16_t double_to_f16(double value) {
  return half_detail::narrow<10>(value);
}
inline std::uint16_t double_to_bf16(double value) {
  return half_detail::narrow<7>(value);
}

inline float bf16_to_float(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

inline float f16_to_float(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  const std::uint32_t exponent = bits >> 10 & 0x1F;
  const std::uint32_t mantissa = bits & 0x3FF;

  if (exponent == 0) {  // zero or subnormal: normal in f32, so exact whatever the rounding mode
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  const std::uint32_t exponent_f32 = exponent == 0x1F ? 0xFF : exponent - 15 + 127;
  return std::bit_cast<float>(sign | exponent_f32 << 23 | mantissa << 13);
}

}  // namespace saccade

#pragma once

#include <cstddef>
#include <limits>
#include <numbers>

namespace saccade::cpu {

inline constexpr float kLog2e = std::numbers::log2e_v<float>;
inline constexpr float kLn2 = std::numbers::ln2_v<float>;
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Stands in for a row maximum of -inf: below every logit that f32 inputs give, and finite, so that
// differences stay numbers.
inline constexpr float kFloor = -1e30f;

// Key tiles whose means select_tiles keeps side by side, dimension by dimension.
inline constexpr std::ptrdiff_t kMeansPanel = 16;

}  // namespace saccade::cpu

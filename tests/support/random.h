#pragma once

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <numbers>
#include <random>

namespace saccade::test {

// The same numbers on every platform, which the distributions of <random> do not promise.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }  // [0, 1)

  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

  bool chance(double probability) { return uniform() < probability; }

  // In [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(uniform() * static_cast<double>(high - low + 1));
  }

  // In [1, high]: mostly of a random order of magnitude, else of any size.
  std::int64_t length(std::int64_t high) {
    if (chance(0.25)) return integer(1, high);
    return static_cast<std::int64_t>(std::pow(static_cast<double>(high + 1), uniform()));
  }

  template <typename T>
  T pick(std::initializer_list<T> choices) {
    return *std::next(choices.begin(), integer(0, std::ssize(choices) - 1));
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace saccade::test

#pragma once

#include <cstdint>
#include <initializer_list>
#include <random>

namespace saccade::cli {

// Random draws for one purpose within one problem, so that a purpose that draws more does not
// change the numbers of another.
class Random {
 public:
  enum class Stream : std::uint32_t {
    problem,
    data,
    earlier_lse,
    merge_partials,
    update_mask,
    routing,
    linear,
    priorities,
  };

  Random(std::uint64_t seed, int number, Stream stream) {
    std::seed_seq sequence{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                           static_cast<std::uint32_t>(number), static_cast<std::uint32_t>(stream)};
    engine_.seed(sequence);
  }

  // In [low, high].
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(engine_);
  }
  double uniform(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(engine_);
  }
  double normal() { return normal_(engine_); }
  bool chance(double probability) { return uniform(0, 1) < probability; }

  template <typename T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[integer(0, static_cast<std::int64_t>(choices.size()) - 1)];
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
};

}  // namespace saccade::cli

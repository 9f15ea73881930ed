#pragma once

#include <cstdint>
#include <random>

namespace saccade::baselines {

// Random choices that are the same on every platform, which the distributions of <random> do not
// promise.
class Draw {
 public:
  explicit Draw(std::uint64_t seed) : engine_(seed) {}

  // In [0, count), for count < 2^53.
  std::int64_t below(std::int64_t count) {
    const double uniform = static_cast<double>(engine_() >> 11) * 0x1p-53;
    return static_cast<std::int64_t>(uniform * static_cast<double>(count));
  }

 private:
  std::mt19937_64 engine_;
};

// Which of a sequence of items to take so that `wanted` of `items` are, each choice of them equally
// likely.
class Sampling {
 public:
  Sampling(Draw& draw, std::int64_t wanted, std::int64_t items)
      : draw_(draw), wanted_(wanted), items_(items) {}

  bool takes_next() {
    const bool takes = draw_.below(items_--) < wanted_;
    wanted_ -= takes;
    return takes;
  }

 private:
  Draw& draw_;
  std::int64_t wanted_;
  std::int64_t items_;
};

}  // namespace saccade::baselines

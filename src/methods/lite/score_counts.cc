#include "methods/lite/score_counts.h"

#include <saccade/calibrate.h>
#include <saccade/error.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace saccade::lite {

std::vector<std::int64_t> count_at_most(std::span<const float> scores,
                                        std::span<const double> thresholds) {
  std::vector<std::int64_t> counts(thresholds.size(), 0);
  for (const float score : scores) {
    const auto first = std::ranges::lower_bound(thresholds, score) - thresholds.begin();
    if (!std::isnan(score) && first < std::ssize(counts)) ++counts[first];
  }
  std::partial_sum(counts.begin(), counts.end(), counts.begin());
  return counts;
}

const std::vector<double>& predicted_thresholds() {
  static const std::vector<double> thresholds = [] {
    constexpr double kFirst = -32, kLast = -0.001, kRatio = 1.04;
    std::vector<double> values;
    for (double value = kFirst; value < kLast; value /= kRatio) values.push_back(value);
    values.push_back(kLast);
    return values;
  }();
  return thresholds;
}

FlatThreshold choose_threshold(std::span<const std::int64_t> skipped,
                               std::int64_t tiles,
                               double sparsity) {
  const std::vector<double>& thresholds = predicted_thresholds();
  if (skipped.size() != thresholds.size() || tiles < 1) {
    throw InvalidArgument(
        fmt::format("there are {} counts of {} tiles, but must be {} counts of at least 1 tile",
                    skipped.size(), tiles, thresholds.size()));
  }
  if (!(sparsity >= 0 && sparsity < 1)) {
    throw InvalidArgument(fmt::format("sparsity is {}, but must be in [0, 1)", sparsity));
  }
  const auto share = [&](std::size_t i) {
    return static_cast<double>(skipped[i]) / static_cast<double>(tiles);
  };
  for (std::size_t i = 0; i < thresholds.size(); ++i) {
    if (share(i) >= sparsity) return {thresholds[i], share(i)};
  }
  throw InvalidArgument(fmt::format(
      "sparsity is {:.4g}, but the threshold closest to 0, {}, is predicted to skip only "
      "{:.4g} of the tiles; fewer dense steps allow more",
      sparsity, thresholds.back(), share(thresholds.size() - 1)));
}

}  // namespace saccade::lite

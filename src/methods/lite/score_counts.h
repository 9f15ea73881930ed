#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace saccade::lite {

// How many of the scores are at most each threshold; thresholds ascend. NaN is above all of them.
std::vector<std::int64_t> count_at_most(std::span<const float> scores,
                                        std::span<const double> thresholds);

}  // namespace saccade::lite

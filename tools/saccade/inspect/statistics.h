#pragma once

#include <saccade/safetensors.h>

#include <cstdint>
#include <optional>

namespace saccade::cli {

// What the values of a tensor are like. NaN takes no part in the first three, which are NaN where
// there is no other element; infinities do.
struct Statistics {
  double min = 0;
  double max = 0;
  double mean = 0;
  std::int64_t nan_count = 0;
};

// Absent for a dtype that saccade does not compute with.
std::optional<Statistics> measure_values(const StoredTensor& tensor);

}  // namespace saccade::cli

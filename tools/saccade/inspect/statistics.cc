#include "inspect/statistics.h"

#include "host_tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace saccade::cli {
namespace {

class Summary {
 public:
  void add(double value) {
    if (std::isnan(value)) {
      ++nan_count_;
      return;
    }
    min_ = std::min(min_, value);
    max_ = std::max(max_, value);
    sum_ += value;
    ++count_;
  }

  Statistics result() const {
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    if (count_ == 0) return {kNaN, kNaN, kNaN, nan_count_};
    return {min_, max_, sum_ / static_cast<double>(count_), nan_count_};
  }

 private:
  double min_ = std::numeric_limits<double>::infinity();
  double max_ = -std::numeric_limits<double>::infinity();
  double sum_ = 0;
  std::int64_t count_ = 0;
  std::int64_t nan_count_ = 0;
};

}  // namespace

std::optional<Statistics> measure_values(const StoredTensor& tensor) {
  const std::optional<DType> dtype = computed_dtype(tensor.dtype);
  if (!dtype) return std::nullopt;
  Summary summary;
  // Through a block that is aligned, whatever the file is.
  alignas(double) std::byte block[1 << 14];
  for (std::span<const std::byte> rest = tensor.bytes; !rest.empty();) {
    const std::size_t bytes = std::min(rest.size(), sizeof(block));
    std::memcpy(block, rest.data(), bytes);
    rest = rest.subspan(bytes);
    const auto count = static_cast<std::int64_t>(bytes / size_of(*dtype));
    const TensorView view = TensorView::contiguous(block, *dtype, {count});
    for (std::int64_t i = 0; i < count; ++i) summary.add(element_at(view, i));
  }
  return summary.result();
}

}  // namespace saccade::cli

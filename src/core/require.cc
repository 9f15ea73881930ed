#include "core/require.h"

#include <saccade/error.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

namespace saccade {
namespace {

std::span<const std::int64_t> shape_of(const TensorView& tensor) {
  return {tensor.shape.data(), static_cast<std::size_t>(tensor.rank)};
}

std::string describe(const TileGrid& grid) {
  return fmt::format("batch {}, heads {}, q_len {}, k_len {}, tiles of {} x {}", grid.batch,
                     grid.heads, grid.q_len, grid.k_len, grid.block_q, grid.block_k);
}

}  // namespace

void require_host(std::string_view name, const Device& device) {
  if (device.type == DeviceType::cpu) return;
  throw Unsupported(
      fmt::format("{} lies on cuda:{}, but this build of saccade has host backends only (cpu, "
                  "reference); copy it to the host",
                  name, device.index));
}

void require_present(std::string_view name, const TensorView& tensor, int rank) {
  if (!tensor) throw InvalidArgument(fmt::format("{} is missing", name));
  if (tensor.rank != rank) {
    throw InvalidArgument(
        fmt::format("{} has {} dimensions, but needs {}", name, tensor.rank, rank));
  }
  require_host(name, tensor.device);
}

void require_tensor(std::string_view name,
                    const TensorView& tensor,
                    DType dtype,
                    std::initializer_list<std::int64_t> shape) {
  require_present(name, tensor, static_cast<int>(shape.size()));
  if (!std::ranges::equal(shape_of(tensor), shape)) {
    throw InvalidArgument(fmt::format("{} has shape [{}], but needs [{}]", name,
                                      fmt::join(shape_of(tensor), ", "), fmt::join(shape, ", ")));
  }
  if (tensor.dtype != dtype) {
    throw InvalidArgument(
        fmt::format("{} has dtype {}, but needs {}", name, name_of(tensor.dtype), name_of(dtype)));
  }
}

void require_unit_stride(std::string_view name, const TensorView& tensor) {
  const int last = tensor.rank - 1;
  if (tensor.shape[last] > 1 && tensor.strides[last] != 1) {
    throw InvalidArgument(
        fmt::format("{} has stride {} in its last dimension, but needs 1; make it contiguous there",
                    name, tensor.strides[last]));
  }
}

void require_distinct_elements(std::string_view name, const TensorView& tensor) {
  for (int i = 0; i < tensor.rank; ++i) {
    if (tensor.shape[i] > 1 && tensor.strides[i] == 0) {
      throw InvalidArgument(fmt::format(
          "{} is written, but has stride 0 in dimension {} of extent {}: its elements share memory",
          name, i, tensor.shape[i]));
    }
  }
}

void require_packed(std::string_view name, const TensorView& tensor) {
  std::int64_t expected = 1;
  for (int i = tensor.rank - 1; i >= 0; --i) {
    if (tensor.shape[i] > 1 && tensor.strides[i] != expected) {
      throw InvalidArgument(
          fmt::format("{} has stride {} in dimension {}, but must be densely "
                      "packed (stride {})",
                      name, tensor.strides[i], i, expected));
    }
    expected *= tensor.shape[i];
  }
}

void require_mask(std::string_view name, const TileMaskView& mask, const TileGrid& grid) {
  if (!mask) throw InvalidArgument(fmt::format("{} is missing", name));
  if (mask.grid != grid) {
    throw InvalidArgument(fmt::format("{} belongs to another grid ({}) than this call ({})", name,
                                      describe(mask.grid), describe(grid)));
  }
  require_host(name, mask.device);
}

void require_threshold(double threshold) {
  if (std::isnan(threshold) || threshold > 0) {
    throw InvalidArgument(fmt::format(
        "threshold is {}, but must be at most 0 (log2 units; -inf never marks)", threshold));
  }
}

void require_share(std::string_view name, double share) {
  if (share >= 0 && share <= 1) return;
  throw InvalidArgument(
      fmt::format("{} is {}, but must be in [0, 1]; the nearest legal choice is {}", name, share,
                  share > 1 ? 1 : 0));
}

void require_ranges(std::string_view name,
                    std::span<const TokenRange> ranges,
                    std::int64_t length) {
  for (const TokenRange& range : ranges) {
    if (range.begin < 0 || range.begin > range.end || range.end > length) {
      throw InvalidArgument(
          fmt::format("{} holds the range [{}, {}), but needs 0 <= begin <= end <= {}", name,
                      range.begin, range.end, length));
    }
  }
}

void require_head_counts(std::int64_t q_heads, std::int64_t k_heads) {
  if (q_heads % k_heads == 0) return;
  throw InvalidArgument(fmt::format(
      "q has {} heads and k has {}, but q_heads must be a multiple of k_heads; the "
      "nearest legal q_heads is {}",
      q_heads, k_heads, std::max<std::int64_t>(1, (q_heads + k_heads / 2) / k_heads) * k_heads));
}

void require_lengths(std::string_view name,
                     const TensorView& lens,
                     std::int64_t batch,
                     std::int64_t limit) {
  if (!lens) return;
  require_tensor(name, lens, DType::i32, {batch});
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int32_t length = static_cast<const std::int32_t*>(lens.data)[b * lens.strides[0]];
    if (length < 0 || length > limit) {
      throw InvalidArgument(
          fmt::format("{}[{}] is {}, but must be in [0, {}]", name, b, length, limit));
    }
  }
}

double resolve_scale(const std::optional<double>& scale, std::int64_t head_dim) {
  if (!scale) return 1 / std::sqrt(static_cast<double>(head_dim));
  if (std::isfinite(*scale)) return *scale;
  throw InvalidArgument(fmt::format("scale is {}, but must be finite", *scale));
}

}  // namespace saccade

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/merge_partials.cc"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on

#include "core/parallel.h"
#include "cpu/constants.h"
#include "cpu/cpu_backend.h"
#include "cpu/element.h"
#include "cpu/pack-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

// One query of one head.
struct Row {
  std::int64_t batch, head, query;

  template <typename T>
  T* of(const TensorView& tensor) const {
    return row_of<T>(tensor, batch, head, query);
  }
  float lse_of(const Partial& partial) const { return *of<const float>(partial.lse); }
};

// Up to four elements of a row; the rest of the vector is 0.
template <typename T>
HWY_INLINE V32x4 load_up_to4(const T* from, std::ptrdiff_t count) {
  if (count >= 4) return load4(from);
  T padded[4] = {};
  std::copy_n(from, count, padded);
  return load4(padded);
}

template <typename T>
HWY_INLINE void store_up_to4(V32x4 v, T* to, std::ptrdiff_t count) {
  if (count >= 4) {
    store4(v, to);
    return;
  }
  T padded[4];
  store4(v, padded);
  std::copy_n(padded, count, to);
}

// exp(lse_i - lse); a partial without mass has no weight, whatever the others are.
float weight(float partial_lse, float lse) {
  return partial_lse == -kInfinity ? 0.0f : std::exp(partial_lse - lse);
}

float merged_lse(std::span<const Partial> partials, const Row& row) {
  float maximum = -kInfinity;
  for (const Partial& partial : partials) maximum = std::max(maximum, row.lse_of(partial));
  if (maximum == -kInfinity) maximum = 0.0f;  // all -inf, or NaN, which the sum carries on
  float sum = 0.0f;
  for (const Partial& partial : partials) sum += std::exp(row.lse_of(partial) - maximum);
  return maximum + std::log(sum);
}

template <typename T>
void merge_row(std::span<const Partial> partials, const Partial& merged, const Row& row) {
  const F32x4 d4;
  const std::ptrdiff_t head_dim = merged.out.shape[3];
  const float lse = merged_lse(partials, row);
  for (std::ptrdiff_t d = 0; d < head_dim; d += 4) {
    V32x4 sum = hn::Zero(d4);
    for (const Partial& partial : partials) {
      const float w = weight(row.lse_of(partial), lse);
      if (w == 0.0f) continue;
      sum = hn::MulAdd(hn::Set(d4, w), load_up_to4(row.of<const T>(partial.out) + d, head_dim - d),
                       sum);
    }
    store_up_to4(sum, row.of<T>(merged.out) + d, head_dim - d);
  }
  *row.of<float>(merged.lse) = lse;
}

template <typename T>
void merge_row_backward(const Partial& partial,
                        const Partial& merged,
                        const Partial& dmerged,
                        const Partial& gradient,
                        const Row& row) {
  const F32x4 d4;
  const std::ptrdiff_t head_dim = merged.out.shape[3];
  const float w = weight(row.lse_of(partial), row.lse_of(merged));
  T* dout_i = row.of<T>(gradient.out);
  if (w == 0.0f) {
    std::fill_n(dout_i, head_dim, T{});
    *row.of<float>(gradient.lse) = 0.0f;
    return;
  }
  V32x4 sum = hn::Zero(d4);
  for (std::ptrdiff_t d = 0; d < head_dim; d += 4) {
    const V32x4 dout = load_up_to4(row.of<const T>(dmerged.out) + d, head_dim - d);
    const V32x4 out_i = load_up_to4(row.of<const T>(partial.out) + d, head_dim - d);
    const V32x4 out = load_up_to4(row.of<const T>(merged.out) + d, head_dim - d);
    sum = hn::MulAdd(dout, hn::Sub(out_i, out), sum);
    store_up_to4(hn::Mul(hn::Set(d4, w), dout), dout_i + d, head_dim - d);
  }
  const float dlse = dmerged.lse ? *row.of<const float>(dmerged.lse) : 0.0f;
  *row.of<float>(gradient.lse) = w * (dlse + hn::GetLane(hn::SumOfLanes(d4, sum)));
}

// Rows [begin, end), counted over batch, heads and queries.
template <typename F>
void for_each_row(const Partial& like, std::int64_t begin, std::int64_t end, F&& f) {
  const std::int64_t heads = like.lse.shape[1];
  const std::int64_t queries = like.lse.shape[2];
  for (std::int64_t i = begin; i < end; ++i) {
    f(Row{i / queries / heads, i / queries % heads, i % queries});
  }
}

void merge_rows(std::span<const Partial> partials,
                const Partial& merged,
                std::int64_t begin,
                std::int64_t end) {
  with_element(merged.out.dtype, [&](auto* element) HWY_ATTR {
    using T = std::remove_pointer_t<decltype(element)>;
    for_each_row(merged, begin, end,
                 [&](const Row& row) HWY_ATTR { merge_row<T>(partials, merged, row); });
  });
}

void merge_rows_backward(std::span<const Partial> partials,
                         const Partial& merged,
                         const Partial& dmerged,
                         std::span<const Partial> gradients,
                         std::int64_t begin,
                         std::int64_t end) {
  with_element(merged.out.dtype, [&](auto* element) HWY_ATTR {
    using T = std::remove_pointer_t<decltype(element)>;
    for_each_row(merged, begin, end, [&](const Row& row) HWY_ATTR {
      for (std::size_t i = 0; i < partials.size(); ++i) {
        merge_row_backward<T>(partials[i], merged, dmerged, gradients[i], row);
      }
    });
  });
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cpu {
namespace {

HWY_EXPORT(merge_rows);
HWY_EXPORT(merge_rows_backward);

constexpr std::int64_t kRowsPerUnit = 64;

template <typename F>
void for_each_block_of_rows(const Execution& execution, const Partial& like, F&& f) {
  const std::int64_t rows = like.lse.element_count();
  for_each_unit(execution, (rows + kRowsPerUnit - 1) / kRowsPerUnit, [&](int, std::int64_t unit) {
    f(unit * kRowsPerUnit, std::min(rows, (unit + 1) * kRowsPerUnit));
  });
}

}  // namespace

void merge_partials(const Execution& execution,
                    std::span<const Partial> partials,
                    const Partial& merged) {
  for_each_block_of_rows(execution, merged, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(merge_rows)(partials, merged, begin, end);
  });
}

void merge_partials_backward(const Execution& execution,
                             std::span<const Partial> partials,
                             const Partial& merged,
                             const Partial& dmerged,
                             std::span<const Partial> gradients) {
  for_each_block_of_rows(execution, merged, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(merge_rows_backward)(partials, merged, dmerged, gradients, begin, end);
  });
}

}  // namespace saccade::cpu

#endif

// Included once per instruction set; see foreach_target.h.
#if defined(SACCADE_CPU_FEATURE_MAP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SACCADE_CPU_FEATURE_MAP_INL_H_
#undef SACCADE_CPU_FEATURE_MAP_INL_H_
#else
#define SACCADE_CPU_FEATURE_MAP_INL_H_
#endif

#include "cpu/constants.h"
#include "cpu/exp2-inl.h"
#include "cpu/linear_layout.h"
#include "cpu/micro_kernel-inl.h"
#include "cpu/pack-inl.h"

#include <hwy/highway.h>

#include <algorithm>

// Feature maps of linear attention and their gradients, panel by panel: tokens lie across the
// lanes, so that sums over the elements of a token are vertical.

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

// One panel [depth][width], seen as two vectors for each row.
HWY_INLINE V32 load_half(const float* panel, std::ptrdiff_t row, std::ptrdiff_t half) {
  const F32 d;
  return hn::Load(d, panel + (2 * row + half) * hn::Lanes(d));
}
HWY_INLINE void store_half(V32 v, std::ptrdiff_t row, std::ptrdiff_t half, float* panel) {
  const F32 d;
  hn::Store(v, d, panel + (2 * row + half) * hn::Lanes(d));
}

// Features of a panel of tokens, [features][stride]: a panel, or one of several side by side.
struct FeatureRows {
  float* at;
  std::ptrdiff_t stride;

  HWY_INLINE V32 load(std::ptrdiff_t row, std::ptrdiff_t half) const {
    const F32 d;
    return hn::Load(d, at + row * stride + half * hn::Lanes(d));
  }
  HWY_INLINE void store(V32 v, std::ptrdiff_t row, std::ptrdiff_t half) const {
    const F32 d;
    hn::Store(v, d, at + row * stride + half * hn::Lanes(d));
  }
};

// to *= 1 / sums, lane by lane; or leaves both as they are and the sums in `divisors`.
HWY_INLINE void divide_or_keep(const FeatureRows& to,
                               std::ptrdiff_t rows,
                               const V32 (&sum)[2],
                               float* divisors) {
  const F32 d;
  if (divisors != nullptr) {
    store_half(sum[0], 0, 0, divisors);
    store_half(sum[1], 0, 1, divisors);
    return;
  }
  const V32 factor[2] = {hn::Div(hn::Set(d, 1.0f), sum[0]), hn::Div(hn::Set(d, 1.0f), sum[1])};
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (int j = 0; j < 2; ++j) to.store(hn::Mul(to.load(row, j), factor[j]), row, j);
  }
}

// to = softmax(x), times `divisors` if they are asked for.
HWY_INLINE void softmax_panel(const float* x,
                              std::ptrdiff_t rows,
                              const FeatureRows& to,
                              float* divisors) {
  const F32 d;
  V32 max[2] = {hn::Set(d, -kInfinity), hn::Set(d, -kInfinity)};
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (int j = 0; j < 2; ++j) max[j] = hn::Max(max[j], load_half(x, row, j));
  }
  const V32 log2e = hn::Set(d, kLog2e);
  for (V32& m : max) m = hn::Mul(m, log2e);
  V32 sum[2] = {hn::Zero(d), hn::Zero(d)};
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (int j = 0; j < 2; ++j) {
      const V32 p = exp2(d, hn::MulSub(load_half(x, row, j), log2e, max[j]));
      sum[j] = hn::Add(sum[j], p);
      to.store(p, row, j);
    }
  }
  divide_or_keep(to, rows, sum, divisors);
}

// The first `rows` rows x become softmax([x, -x]), which has twice as many.
HWY_INLINE void softmax_of_both_signs(std::ptrdiff_t rows, const FeatureRows& to, float* divisors) {
  const F32 d;
  V32 max[2] = {hn::Zero(d), hn::Zero(d)};
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (int j = 0; j < 2; ++j) max[j] = hn::Max(max[j], hn::Abs(to.load(row, j)));
  }
  const V32 log2e = hn::Set(d, kLog2e);
  V32 sum[2] = {hn::Zero(d), hn::Zero(d)};
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (int j = 0; j < 2; ++j) {
      const V32 x = to.load(row, j);
      const V32 plus = exp2(d, hn::Mul(hn::Sub(x, max[j]), log2e));
      const V32 minus = exp2(d, hn::Mul(hn::Sub(hn::Neg(x), max[j]), log2e));
      sum[j] = hn::Add(sum[j], hn::Add(plus, minus));
      to.store(plus, row, j);
      to.store(minus, rows + row, j);
    }
  }
  divide_or_keep(to, 2 * rows, sum, divisors);
}

// Replaces the gradient of y = softmax(x) by that of x.
HWY_INLINE void softmax_panel_backward(const float* HWY_RESTRICT y,
                                       std::ptrdiff_t rows,
                                       float* HWY_RESTRICT gradient) {
  const F32 d;
  V32 mean[2] = {hn::Zero(d), hn::Zero(d)};
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (int j = 0; j < 2; ++j) {
      mean[j] = hn::MulAdd(load_half(y, row, j), load_half(gradient, row, j), mean[j]);
    }
  }
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (int j = 0; j < 2; ++j) {
      const V32 difference = hn::Sub(load_half(gradient, row, j), mean[j]);
      store_half(hn::Mul(load_half(y, row, j), difference), row, j, gradient);
    }
  }
}

// to = f(from, to), element by element.
template <typename F>
HWY_INLINE void map_elements(const float* HWY_RESTRICT from,
                             std::ptrdiff_t rows,
                             float* HWY_RESTRICT to,
                             F&& f) {
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (int j = 0; j < 2; ++j) {
      store_half(f(load_half(from, row, j), load_half(to, row, j)), row, j, to);
    }
  }
}

// to = f(x), element by element.
template <typename F>
HWY_INLINE void map_tokens(const float* HWY_RESTRICT x,
                           std::ptrdiff_t rows,
                           const FeatureRows& to,
                           F&& f) {
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (int j = 0; j < 2; ++j) to.store(f(load_half(x, row, j)), row, j);
  }
}

// Features of a panel of tokens [head_dim][width]; with `divisors`, one panel, each token's times
// its divisor, which saves a pass where it cancels.
HWY_INLINE void map_panel(const FeatureMapping& map,
                          const float* x,
                          const FeatureRows& features,
                          float* divisors) {
  const F32 d;
  const V32 zero = hn::Zero(d);
  if (divisors != nullptr) {
    for (int j = 0; j < 2; ++j) store_half(hn::Set(d, 1.0f), 0, j, divisors);
  }
  switch (map.kind) {
    case FeatureMap::softmax:
      softmax_panel(x, map.head_dim, features, divisors);
      return;
    case FeatureMap::elu_plus_one:
      map_tokens(x, map.head_dim, features, [&](V32 value) HWY_ATTR {
        const V32 below = exp2(d, hn::Mul(value, hn::Set(d, kLog2e)));
        const V32 above = hn::Add(value, hn::Set(d, 1.0f));
        return hn::IfThenElse(hn::Gt(value, zero), above, below);
      });
      return;
    case FeatureMap::relu:
      map_tokens(x, map.head_dim, features, [&](V32 value) HWY_ATTR {
        return hn::IfThenElse(hn::Lt(value, zero), zero, value);  // NaN stays
      });
      return;
    case FeatureMap::hedgehog: {
      multiply<Start::zero>(
          Product<RowsOfA::lie, Panels::packed, Panels::strided>{.a = map.weight,
                                                                 .a_stride = map.head_dim,
                                                                 .b = x,
                                                                 .c = features.at,
                                                                 .c_stride = features.stride,
                                                                 .rows = map.head_dim,
                                                                 .depth = map.head_dim});
      softmax_of_both_signs(map.head_dim, features, divisors);
      return;
    }
  }
}

// Replaces the gradients of the features by those of what the map was applied to: the token, or
// for hedgehog W x, of which the first head_dim rows are left.
HWY_INLINE void map_panel_backward(const FeatureMapping& map,
                                   const float* HWY_RESTRICT features,
                                   float* HWY_RESTRICT gradient) {
  const F32 d;
  const V32 zero = hn::Zero(d);
  switch (map.kind) {
    case FeatureMap::softmax:
      softmax_panel_backward(features, map.features, gradient);
      return;
    case FeatureMap::elu_plus_one:
      map_elements(features, map.features, gradient, [&](V32 y, V32 g) HWY_ATTR {
        return hn::IfThenElse(hn::Gt(y, hn::Set(d, 1.0f)), g, hn::Mul(g, y));
      });
      return;
    case FeatureMap::relu:
      map_elements(features, map.features, gradient,
                   [&](V32 y, V32 g) HWY_ATTR { return hn::IfThenElseZero(hn::Gt(y, zero), g); });
      return;
    case FeatureMap::hedgehog:
      softmax_panel_backward(features, map.features, gradient);
      map_elements(gradient + map.head_dim * panel_width(), map.head_dim, gradient,
                   [&](V32 negative, V32 g) HWY_ATTR { return hn::Sub(g, negative); });
      return;
  }
}

// hedgehog: the gradient of the tokens, given that of W x; adds to `dweight`
// [head_dim][padded_head_dim] what the tokens, `rows` of them in `x_rows`, contribute.
HWY_INLINE const float* project_back(const FeatureMapping& map,
                                     const float* gradient,
                                     const RowBuffer& x_rows,
                                     std::ptrdiff_t rows,
                                     float* dx,
                                     float* dweight) {
  const std::ptrdiff_t width = panel_width();
  multiply<Start::zero>(Product<RowsOfA::stand>{.a = map.weight,
                                                .a_stride = map.head_dim,
                                                .b = gradient,
                                                .c = dx,
                                                .rows = map.head_dim,
                                                .depth = map.head_dim});
  for (std::ptrdiff_t first = 0; first < map.head_dim; first += width) {
    multiply<Start::add>(
        Product<RowsOfA::lie, Panels::strided, Panels::strided>{.a = gradient,
                                                                .a_stride = width,
                                                                .b = x_rows.at + first,
                                                                .b_stride = x_rows.stride,
                                                                .c = dweight + first,
                                                                .c_stride = map.padded_head_dim,
                                                                .rows = map.head_dim,
                                                                .depth = rows});
  }
  return dx;
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

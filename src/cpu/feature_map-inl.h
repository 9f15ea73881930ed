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

// Feature maps of linear attention and their gradients, token by token: a token is a row, and its
// elements lie across the lanes.

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

HWY_INLINE void softmax_row(std::ptrdiff_t count, float* HWY_RESTRICT row) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  V32 max = hn::Set(d, -kInfinity);
  for (std::ptrdiff_t i = 0; i < count; i += lanes) max = hn::Max(max, hn::Load(d, row + i));
  const V32 largest = hn::MaxOfLanes(d, max);
  V32 sum = hn::Zero(d);
  for (std::ptrdiff_t i = 0; i < count; i += lanes) {
    const V32 x = hn::Mul(hn::Sub(hn::Load(d, row + i), largest), hn::Set(d, kLog2e));
    const V32 p = exp2(d, x);
    sum = hn::Add(sum, p);
    hn::Store(p, d, row + i);
  }
  const V32 factor = hn::Div(hn::Set(d, 1.0f), hn::SumOfLanes(d, sum));
  for (std::ptrdiff_t i = 0; i < count; i += lanes) {
    hn::Store(hn::Mul(hn::Load(d, row + i), factor), d, row + i);
  }
}

// Replaces the gradient of y = softmax(x) by that of x.
HWY_INLINE void softmax_row_backward(const float* HWY_RESTRICT y,
                                     std::ptrdiff_t count,
                                     float* HWY_RESTRICT gradient) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  V32 sum = hn::Zero(d);
  for (std::ptrdiff_t i = 0; i < count; i += lanes) {
    sum = hn::MulAdd(hn::Load(d, y + i), hn::Load(d, gradient + i), sum);
  }
  const V32 mean = hn::SumOfLanes(d, sum);
  for (std::ptrdiff_t i = 0; i < count; i += lanes) {
    const V32 difference = hn::Sub(hn::Load(d, gradient + i), mean);
    hn::Store(hn::Mul(hn::Load(d, y + i), difference), d, gradient + i);
  }
}

// Both work on whole rows: what stands beyond head_dim is mapped too, and read by nobody.
HWY_INLINE void elu_plus_one_row(std::ptrdiff_t count, float* HWY_RESTRICT row) {
  const F32 d;
  for (std::ptrdiff_t i = 0; i < count; i += hn::Lanes(d)) {
    const V32 x = hn::Load(d, row + i);
    const V32 below = exp2(d, hn::Mul(x, hn::Set(d, kLog2e)));
    const auto is_above = hn::Gt(x, hn::Zero(d));
    hn::Store(hn::IfThenElse(is_above, hn::Add(x, hn::Set(d, 1.0f)), below), d, row + i);
  }
}

HWY_INLINE void relu_row(std::ptrdiff_t count, float* HWY_RESTRICT row) {
  const F32 d;
  for (std::ptrdiff_t i = 0; i < count; i += hn::Lanes(d)) {
    const V32 x = hn::Load(d, row + i);
    hn::Store(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), hn::Zero(d), x), d, row + i);  // NaN stays
  }
}

// gradient *= slope(y), the derivative of the map as a function of its result.
template <typename Slope>
HWY_INLINE void scale_row(const float* HWY_RESTRICT y,
                          std::ptrdiff_t count,
                          float* HWY_RESTRICT gradient,
                          Slope&& slope) {
  const F32 d;
  for (std::ptrdiff_t i = 0; i < count; i += hn::Lanes(d)) {
    const V32 g = hn::Load(d, gradient + i);
    hn::Store(slope(hn::Load(d, y + i), g), d, gradient + i);
  }
}

// to[token] = [W x, -W x] of rows of f32.
HWY_INLINE void project_rows(const FeatureMapping& map,
                             const float* x,
                             std::ptrdiff_t x_stride,
                             std::ptrdiff_t tokens,
                             float* to,
                             std::ptrdiff_t to_stride) {
  const std::ptrdiff_t width = panel_width();
  for (std::ptrdiff_t first = 0; first < map.head_dim; first += width) {
    multiply<Start::zero>({.a = x,
                           .a_row = x_stride,
                           .a_depth = 1,
                           .b = map.projection + first * map.head_dim,
                           .b_depth = width,
                           .c = to + first,
                           .c_row = to_stride,
                           .rows = tokens,
                           .depth = map.head_dim});
  }
  // The second half overwrites what a last, partial panel has left there.
  const hn::CappedTag<float, 16> d16;
  for (std::ptrdiff_t token = 0; token < tokens; ++token) {
    float* row = to + token * to_stride;
    for (std::ptrdiff_t i = 0; i < map.head_dim; i += hn::Lanes(d16)) {
      hn::StoreU(hn::Neg(hn::LoadU(d16, row + i)), d16, row + map.head_dim + i);
    }
  }
}

// Features of some tokens of a head. `x_rows`: room for the tokens as f32, used by hedgehog only,
// where it holds them afterwards.
template <typename T>
void map_tokens(const FeatureMapping& map,
                const T* x,
                std::ptrdiff_t x_stride,
                std::ptrdiff_t tokens,
                const RowBuffer& x_rows,
                const RowBuffer& features) {
  const std::ptrdiff_t stride = features.stride;
  const bool is_projected = map.kind == FeatureMap::hedgehog;
  const RowBuffer& loaded = is_projected ? x_rows : features;
  copy_rows(x, x_stride, 1.0f, loaded.at, loaded.stride, tokens, map.head_dim);
  if (is_projected) {
    project_rows(map, x_rows.at, x_rows.stride, tokens, features.at, stride);
  }
  for (std::ptrdiff_t token = 0; token < tokens; ++token) {
    float* row = features.at + token * stride;
    if (map.kind == FeatureMap::elu_plus_one) {
      elu_plus_one_row(map.features, row);
    } else if (map.kind == FeatureMap::relu) {
      relu_row(map.features, row);
    } else {
      softmax_row(map.features, row);
    }
    std::fill(row + map.features, row + map.padded_features, 0.0f);
  }
}

// Replaces the gradients of the features by those of the logits that the map was applied to: the
// token itself, or for hedgehog W x.
HWY_INLINE void map_tokens_backward(const FeatureMapping& map,
                                    std::ptrdiff_t tokens,
                                    const RowBuffer& features,
                                    const RowBuffer& gradients) {
  const F32 d;
  const V32 zero = hn::Zero(d);
  const V32 one = hn::Set(d, 1.0f);
  for (std::ptrdiff_t token = 0; token < tokens; ++token) {
    const float* y = features.at + token * features.stride;
    float* gradient = gradients.at + token * gradients.stride;
    if (map.kind == FeatureMap::elu_plus_one) {
      scale_row(y, map.features, gradient, [&](V32 value, V32 g) HWY_ATTR {
        return hn::IfThenElse(hn::Gt(value, one), g, hn::Mul(g, value));
      });
    } else if (map.kind == FeatureMap::relu) {
      scale_row(y, map.features, gradient, [&](V32 value, V32 g) HWY_ATTR {
        return hn::IfThenElseZero(hn::Gt(value, zero), g);
      });
    } else {
      softmax_row_backward(y, map.features, gradient);
    }
    if (map.kind == FeatureMap::hedgehog) {
      const hn::CappedTag<float, 16> d16;
      for (std::ptrdiff_t i = 0; i < map.head_dim; i += hn::Lanes(d16)) {
        const auto positive = hn::LoadU(d16, gradient + i);
        const auto negative = hn::LoadU(d16, gradient + map.head_dim + i);
        hn::StoreU(hn::Sub(positive, negative), d16, gradient + i);
      }
    }
  }
}

// Writes the gradients of tokens, or adds to them, given those of the logits. hedgehog: `dx_rows`
// is room for them; adds to `dweight` [head_dim][padded head_dim] what the tokens `x_rows`
// contribute.
template <typename T>
void store_token_gradients(const FeatureMapping& map,
                           std::ptrdiff_t tokens,
                           const RowBuffer& gradients,
                           const RowBuffer& x_rows,
                           const RowBuffer& dx_rows,
                           float* dweight,
                           bool adds,
                           T* to,
                           std::ptrdiff_t to_stride) {
  const auto store = [&](const RowBuffer& rows) HWY_ATTR {
    if (adds) {
      copy_rows<true>(rows.at, rows.stride, 1.0f, to, to_stride, tokens, map.head_dim);
    } else {
      copy_rows(rows.at, rows.stride, 1.0f, to, to_stride, tokens, map.head_dim);
    }
  };
  if (map.kind != FeatureMap::hedgehog) {
    store(gradients);
    return;
  }
  const std::ptrdiff_t width = panel_width();
  for (std::ptrdiff_t first = 0; first < map.head_dim; first += width) {
    multiply<Start::zero>({.a = gradients.at,
                           .a_row = gradients.stride,
                           .a_depth = 1,
                           .b = map.back_projection + first * map.head_dim,
                           .b_depth = width,
                           .c = dx_rows.at + first,
                           .c_row = dx_rows.stride,
                           .rows = tokens,
                           .depth = map.head_dim});
    multiply<Start::add>({.a = gradients.at,
                          .a_row = 1,
                          .a_depth = gradients.stride,
                          .b = x_rows.at + first,
                          .b_depth = x_rows.stride,
                          .c = dweight + first,
                          .c_row = map.padded_head_dim,
                          .rows = map.head_dim,
                          .depth = tokens});
  }
  store(dx_rows);
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

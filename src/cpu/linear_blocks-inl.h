// Included once per instruction set; see foreach_target.h.
#if defined(SACCADE_CPU_LINEAR_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SACCADE_CPU_LINEAR_BLOCKS_INL_H_
#undef SACCADE_CPU_LINEAR_BLOCKS_INL_H_
#else
#define SACCADE_CPU_LINEAR_BLOCKS_INL_H_
#endif

#include "cpu/element.h"
#include "cpu/feature_map-inl.h"
#include "cpu/linear_layout.h"
#include "cpu/micro_kernel-inl.h"
#include "cpu/pack-inl.h"
#include "cpu/tile_sums-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

// Sums over the tokens of a block, and what becomes of a token given the total of the blocks that
// it meets.

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

// Calls f(first, count) for the tokens [begin, end) in pieces.
template <typename F>
HWY_INLINE void for_each_piece(std::int64_t begin, std::int64_t end, F&& f) {
  for (std::int64_t first = begin; first < end; first += LinearLayout::kPiece) {
    f(first, std::min(LinearLayout::kPiece, end - first));
  }
}

// Rows of f32 and whole panels.
struct FloatRows {
  const float* at = nullptr;
  std::ptrdiff_t stride = 0;
};

// Rows of v where they lie, if they are f32, whole aligned panels, and at a stride that does not
// map them all to a few cache sets; otherwise none.
template <typename T>
FloatRows rows_in_place(const FeatureMapping& map, const T* rows, std::ptrdiff_t stride) {
  constexpr std::ptrdiff_t kFewSets = 128;
  const std::ptrdiff_t lanes = hn::Lanes(F32());
  if constexpr (std::is_same_v<T, float>) {
    const bool is_aligned = reinterpret_cast<std::uintptr_t>(rows) % (lanes * sizeof(float)) == 0;
    if (is_aligned && stride % lanes == 0 && stride % kFewSets != 0 &&
        map.head_dim == map.padded_head_dim) {
      return {rows, stride};
    }
  }
  return {};
}

// values[first + row] = some rows of v or dout as f32, 0 beyond head_dim.
template <typename T>
void keep_values(const FeatureMapping& map,
                 const T* rows,
                 std::ptrdiff_t stride,
                 std::ptrdiff_t first,
                 std::ptrdiff_t count,
                 const LinearScratch& scratch) {
  const RowBuffer& values = scratch.values;
  float* to = values.at + first * values.stride;
  copy_rows(rows, stride, 1.0f, to, values.stride, count, map.head_dim);
  for (std::ptrdiff_t row = 0; row < count; ++row, to += values.stride) {
    std::fill(to + map.head_dim, to + map.padded_head_dim, 0.0f);
  }
}

// sums[block] (+)= features last: the part that stands beside the values. `last` is 0 beyond the
// tokens.
HWY_INLINE void add_features(const FeatureMapping& map,
                             const RowBuffer& features,
                             const float* HWY_RESTRICT last,
                             std::int64_t tokens,
                             bool is_first,
                             const BlockSums& sums,
                             std::int64_t block) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  const std::ptrdiff_t width = panel_width();
  for (std::ptrdiff_t first = 0; first < map.padded_features; first += width) {
    float* to = sums.at + (map.matrix_floats() + first) * sums.blocks + block * width;
    for (std::ptrdiff_t i = 0; i < width; ++i) {
      if (first + i >= map.features) {
        to[i] = 0;
        continue;
      }
      const float* HWY_RESTRICT row = features.at + (first + i) * features.stride;
      V32 total = hn::Zero(d);
      for (std::ptrdiff_t t = 0; t < tokens; t += lanes) {
        total = hn::MulAdd(hn::Load(d, row + t), hn::Load(d, last + t), total);
      }
      to[i] = (is_first ? 0.0f : to[i]) + hn::GetLane(hn::SumOfLanes(d, total));
    }
  }
}

// sums[block] (+)= features [values, last] over the tokens of a piece; the scratch holds features
// and last. Fetches what the next piece will read.
HWY_INLINE void add_to_sums(const FeatureMapping& map,
                            const LinearScratch& scratch,
                            const FloatRows& values,
                            std::int64_t tokens,
                            bool is_first,
                            const BlockSums& sums,
                            std::int64_t block,
                            const Region& next_x,
                            const Region& next_values) {
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t strips = map.padded_head_dim / width;
  const std::ptrdiff_t cuts = BlockCut(map.features).blocks();
  const RowBuffer& features = scratch.features;
  for (std::ptrdiff_t first = 0; first < map.padded_head_dim; first += width) {
    const Product<RowsOfA::lie, Panels::strided, Panels::strided> product = {
        .a = features.at,
        .a_stride = features.stride,
        .b = values.at + first,
        .b_stride = values.stride,
        .c = sums.at + first * sums.blocks + block * width,
        .c_stride = map.padded_head_dim * sums.blocks,
        .rows = map.features,
        .depth = tokens};
    const std::ptrdiff_t strip = first / width;
    const Prefetch prefetch(cuts, next_x.part(strip, strips), next_values.part(strip, strips));
    is_first ? multiply<Start::zero>(product, nullptr, nullptr, prefetch)
             : multiply<Start::add>(product, nullptr, nullptr, prefetch);
  }
  add_features(map, features, scratch.last, tokens, is_first, sums, block);
}

HWY_INLINE void clear_sums(const FeatureMapping& map, const BlockSums& sums, std::int64_t block) {
  const std::ptrdiff_t width = panel_width();
  for (std::ptrdiff_t first = 0; first < map.state_floats(); first += width) {
    std::fill_n(sums.at + first * sums.blocks + block * width, width, 0.0f);
  }
}

// The rows of the next `count` tokens after `rows`, to be fetched; there may be none.
template <typename T>
Region rows_after(const T* rows,
                  std::ptrdiff_t stride,
                  std::ptrdiff_t count,
                  std::ptrdiff_t head_dim) {
  return Region::of_rows(rows + count * stride, stride, count, head_dim);
}

HWY_INLINE FeatureRows feature_panel(const LinearScratch& scratch) {
  return {scratch.feature_panel, panel_width()};
}

// The features of up to a panel of tokens, from the rows of a tensor; something finite, or what
// zeros are mapped to, where there is no token.
template <typename T>
void map_rows(const FeatureMapping& map,
              const T* rows,
              std::ptrdiff_t stride,
              std::ptrdiff_t count,
              const LinearScratch& scratch,
              const FeatureRows& features,
              float* divisors = nullptr) {
  rows_to_panel(rows, stride, count, map.head_dim, 1.0f, panel_width(), scratch.token_panel);
  map_panel(map, scratch.token_panel, features, divisors);
}

// features[feature][first + lane] = factors[lane] * panel[feature][lane], 0 in lanes without a
// token.
HWY_INLINE void keep_features(const FeatureMapping& map,
                              const float* HWY_RESTRICT factors,
                              std::ptrdiff_t first,
                              std::ptrdiff_t count,
                              const LinearScratch& scratch) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  float* HWY_RESTRICT to = scratch.features.at + first;
  for (std::ptrdiff_t half = 0; half < 2; ++half) {
    const auto has_token = hn::FirstN(d, std::clamp(count - half * lanes, {}, lanes));
    const V32 factor = load_half(factors, 0, half);
    for (std::ptrdiff_t i = 0; i < map.features; ++i) {
      const V32 kept = hn::Mul(factor, load_half(scratch.feature_panel, i, half));
      hn::Store(hn::IfThenElseZero(has_token, kept), d,
                to + i * scratch.features.stride + half * lanes);
    }
  }
}

// factors[lane] = 1 / (epsilon * divisor + feature panel . total of phi(k)) for one panel; 0 where
// that is 0. No divisors: they are 1.
HWY_INLINE void inverse_denominators(const FeatureMapping& map,
                                     const float* HWY_RESTRICT panel,
                                     const float* HWY_RESTRICT total,
                                     float epsilon,
                                     const float* divisors,
                                     float* HWY_RESTRICT factors) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  const float* HWY_RESTRICT key_total = total + map.matrix_floats();
  V32 sum[2][2] = {{hn::Set(d, epsilon), hn::Set(d, epsilon)}, {hn::Zero(d), hn::Zero(d)}};
  if (divisors != nullptr) {
    for (int j = 0; j < 2; ++j) sum[0][j] = hn::Mul(sum[0][j], load_half(divisors, 0, j));
  }
  for (std::ptrdiff_t i = 0; i < map.features; i += 2) {
    for (int j = 0; j < 2; ++j) {
      const V32 z = hn::Set(d, key_total[i + j]);
      sum[j][0] = hn::MulAdd(z, load_half(panel, i + j, 0), sum[j][0]);
      sum[j][1] = hn::MulAdd(z, load_half(panel, i + j, 1), sum[j][1]);
    }
  }
  const V32 one = hn::Set(d, 1.0f);
  const auto inverse = [&](V32 x) HWY_ATTR {
    return hn::IfThenZeroElse(hn::Eq(x, hn::Zero(d)), hn::Div(one, x));
  };
  hn::Store(inverse(hn::Add(sum[0][0], sum[1][0])), d, factors);
  hn::Store(inverse(hn::Add(sum[0][1], sum[1][1])), d, factors + lanes);
}

// values [head_dim][width] of a panel of features: total, transposed, times features. Fetches what
// will be read next.
HWY_INLINE void values_from_features(const FeatureMapping& map,
                                     const float* total,
                                     const float* feature_panel,
                                     float* value_panel,
                                     const Region& next,
                                     const Region& also_next) {
  multiply<Start::zero>(Product<RowsOfA::stand>{.a = total,
                                                .a_stride = map.padded_head_dim,
                                                .b = feature_panel,
                                                .c = value_panel,
                                                .rows = map.head_dim,
                                                .depth = map.features},
                        nullptr, nullptr,
                        Prefetch(BlockCut(map.head_dim).blocks(), next, also_next));
}

// Features [features][width] of a panel of values: total times values.
HWY_INLINE void features_from_values(const FeatureMapping& map,
                                     const float* total,
                                     const float* value_panel,
                                     float* feature_panel,
                                     const Region& next,
                                     const Region& also_next) {
  multiply<Start::zero>(Product<RowsOfA::lie>{.a = total,
                                              .a_stride = map.padded_head_dim,
                                              .b = value_panel,
                                              .c = feature_panel,
                                              .rows = map.features,
                                              .depth = map.head_dim},
                        nullptr, nullptr,
                        Prefetch(BlockCut(map.features).blocks(), next, also_next));
}

// Rows without weight are 0 even where 0 times what they would be is NaN: clears the lanes of a
// panel [depth][width] whose factor is 0.
HWY_INLINE void clear_weightless(const float* HWY_RESTRICT factors,
                                 std::ptrdiff_t depth,
                                 float* HWY_RESTRICT panel) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  const auto none0 = hn::Eq(hn::Load(d, factors), hn::Zero(d));
  const auto none1 = hn::Eq(hn::Load(d, factors + lanes), hn::Zero(d));
  if (hn::AllFalse(d, hn::Or(none0, none1))) return;
  for (std::ptrdiff_t i = 0; i < depth; ++i, panel += 2 * lanes) {
    hn::Store(hn::IfThenZeroElse(none0, hn::Load(d, panel)), d, panel);
    hn::Store(hn::IfThenZeroElse(none1, hn::Load(d, panel + lanes)), d, panel + lanes);
  }
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

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

#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

// Sums over the tokens of a block, and totals over the blocks that meet.

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

// Calls f(first, count) for the tokens [begin, end) in pieces.
template <typename F>
HWY_INLINE void for_each_piece(std::int64_t begin, std::int64_t end, F&& f) {
  for (std::int64_t first = begin; first < end; first += LinearLayout::kPiece) {
    f(first, std::min(LinearLayout::kPiece, end - first));
  }
}

// Rows of any dtype as f32: where they lie, or a copy in `room`.
struct FloatRows {
  const float* at;
  std::ptrdiff_t stride;
};

template <typename T>
FloatRows float_rows(const TensorView& tensor,
                     std::int64_t batch,
                     std::int64_t head,
                     std::int64_t first,
                     std::int64_t count,
                     float* room) {
  const T* rows = row_of<const T>(tensor, batch, head, first);
  if constexpr (std::is_same_v<T, float>) {
    return {rows, tensor.strides[2]};
  } else {
    const std::ptrdiff_t head_dim = tensor.shape[3];
    copy_rows(rows, tensor.strides[2], 1.0f, room, head_dim, count, head_dim);
    return {room, head_dim};
  }
}

// sums[block] (+)= features^T [values, last] over some tokens.
HWY_INLINE void add_to_sums(const FeatureMapping& map,
                            const RowBuffer& features,
                            const FloatRows& values,
                            const float* last,
                            std::int64_t tokens,
                            bool is_first,
                            const BlockSums& sums,
                            std::int64_t block) {
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t panel_floats = sums.blocks * width;
  const std::ptrdiff_t row_floats = map.padded_features * sums.blocks;
  for (std::ptrdiff_t first = 0; first < map.padded_features; first += width) {
    Product product = {.a = values.at,
                       .a_row = 1,
                       .a_depth = values.stride,
                       .b = features.at + first,
                       .b_depth = features.stride,
                       .c = sums.at + first / width * panel_floats + block * width,
                       .c_row = row_floats,
                       .rows = map.head_dim,
                       .depth = tokens};
    is_first ? multiply<Start::zero>(product) : multiply<Start::add>(product);
    product.a = last;
    product.a_depth = 1;
    product.c += map.head_dim * row_floats;
    product.rows = 1;
    is_first ? multiply<Start::zero>(product) : multiply<Start::add>(product);
  }
}

HWY_INLINE void clear_sums(const FeatureMapping& map, const BlockSums& sums, std::int64_t block) {
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t state_floats = (map.head_dim + 1) * map.padded_features;
  for (std::ptrdiff_t first = 0; first < state_floats; first += width) {
    std::fill_n(sums.at + first * sums.blocks + block * width, width, 0.0f);
  }
}

HWY_INLINE bool all_finite(const float* values, std::ptrdiff_t count) {
  const F32 d;
  V32 poison = hn::Zero(d);
  for (std::ptrdiff_t i = 0; i < count; i += hn::Lanes(d)) {
    poison = hn::MulAdd(hn::Load(d, values + i), hn::Zero(d), poison);
  }
  return hn::AllFalse(d, hn::IsNaN(poison));
}

// A 0/1 matrix: which of `sources` blocks each of `targets` blocks meets.
struct Meetings {
  const float* weights;  // [targets][sources]
  std::int64_t targets, sources;
};

// totals[target] (+)= the sums of the blocks that it meets, in order.
template <Start kStart>
void make_totals(const FeatureMapping& map,
                 const BlockSums& sums,
                 const Meetings& meetings,
                 float* totals) {
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t state_floats = (map.head_dim + 1) * map.padded_features;
  const std::ptrdiff_t panel_floats = sums.blocks * width;
  for (std::ptrdiff_t first = 0; first < state_floats; first += width) {
    multiply<kStart>({.a = meetings.weights,
                      .a_row = meetings.sources,
                      .a_depth = 1,
                      .b = sums.at + first / width * panel_floats,
                      .b_depth = width,
                      .c = totals + first,
                      .c_row = state_floats,
                      .rows = meetings.targets,
                      .depth = meetings.sources});
  }
}

// 0 times NaN is NaN: where a total is not finite, it is made again from the blocks that are met,
// and from them only. The order of the additions is that of the product, and so are the bits.
HWY_INLINE void add_met_blocks(const FeatureMapping& map,
                               const BlockSums& sums,
                               const Meetings& meetings,
                               std::int64_t target,
                               float* total) {
  const F32 d;
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t state_floats = (map.head_dim + 1) * map.padded_features;
  for (std::int64_t source = 0; source < meetings.sources; ++source) {
    if (meetings.weights[target * meetings.sources + source] == 0.0f) continue;
    for (std::ptrdiff_t i = 0; i < state_floats; i += hn::Lanes(d)) {
      const float* from = sums.at + i / width * sums.blocks * width + source * width + i % width;
      hn::Store(hn::Add(hn::Load(d, total + i), hn::Load(d, from)), d, total + i);
    }
  }
}

// totals[target] = the sums of the blocks that each of some target blocks meets, over one or more
// heads on the other side: sums_of(i) and meetings_of(i), the latter valid until the next call.
template <typename SumsOf, typename MeetingsOf>
void total_up(const FeatureMapping& map,
              std::int64_t heads,
              std::int64_t targets,
              SumsOf&& sums_of,
              MeetingsOf&& meetings_of,
              float* totals) {
  const std::ptrdiff_t state_floats = (map.head_dim + 1) * map.padded_features;
  for (std::int64_t i = 0; i < heads; ++i) {
    const Meetings meetings = meetings_of(i);
    i == 0 ? make_totals<Start::zero>(map, sums_of(i), meetings, totals)
           : make_totals<Start::add>(map, sums_of(i), meetings, totals);
  }
  if (all_finite(totals, targets * state_floats)) return;
  std::fill_n(totals, targets * state_floats, 0.0f);
  for (std::int64_t i = 0; i < heads; ++i) {
    const Meetings meetings = meetings_of(i);
    for (std::int64_t target = 0; target < targets; ++target) {
      add_met_blocks(map, sums_of(i), meetings, target, totals + target * state_floats);
    }
  }
}

// The features of up to a panel of tokens, from the rows of a tensor.
template <typename T>
void map_rows(const FeatureMapping& map,
              const T* rows,
              std::ptrdiff_t stride,
              std::ptrdiff_t count,
              const LinearScratch& scratch) {
  rows_to_panel(rows, stride, count, map.head_dim, 1.0f, panel_width(), scratch.token_panel);
  map_panel(map, scratch.token_panel, scratch.feature_panel);
}

// rows[first + lane][feature] = factors[lane] * panel[feature][lane], 0 beyond the features.
HWY_INLINE void keep_features(const FeatureMapping& map,
                              const float* factors,
                              std::ptrdiff_t first,
                              std::ptrdiff_t count,
                              const LinearScratch& scratch) {
  const RowBuffer& rows = scratch.features;
  float* to = rows.at + first * rows.stride;
  panel_to_rows(scratch.feature_panel, panel_width(), factors, to, rows.stride, count,
                map.features);
  const std::ptrdiff_t padding = map.padded_features - map.features;
  for (std::ptrdiff_t row = 0; padding > 0 && row < count; ++row) {
    std::fill_n(to + row * rows.stride + map.features, padding, 0.0f);
  }
}

// factors[lane] = 1 / (epsilon + phi(q) . total of phi(k)) for one panel; 0 where that is 0.
HWY_INLINE void inverse_denominators(const FeatureMapping& map,
                                     const float* HWY_RESTRICT panel,
                                     const float* HWY_RESTRICT total,
                                     float epsilon,
                                     float* HWY_RESTRICT factors) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  const float* HWY_RESTRICT key_total = total + map.head_dim * map.padded_features;
  V32 sum0 = hn::Set(d, epsilon);
  V32 sum1 = sum0;
  for (std::ptrdiff_t i = 0; i < map.features; ++i, panel += 2 * lanes) {
    const V32 z = hn::Set(d, key_total[i]);
    sum0 = hn::MulAdd(z, hn::Load(d, panel), sum0);
    sum1 = hn::MulAdd(z, hn::Load(d, panel + lanes), sum1);
  }
  const V32 one = hn::Set(d, 1.0f);
  const auto inverse = [&](V32 sum) HWY_ATTR {
    return hn::IfThenZeroElse(hn::Eq(sum, hn::Zero(d)), hn::Div(one, sum));
  };
  hn::Store(inverse(sum0), d, factors);
  hn::Store(inverse(sum1), d, factors + lanes);
}

// values [head_dim][width] of a panel of features: total times features.
HWY_INLINE void values_from_features(const FeatureMapping& map,
                                     const float* total,
                                     const float* feature_panel,
                                     float* value_panel) {
  multiply<Start::zero>({.a = total,
                         .a_row = map.padded_features,
                         .a_depth = 1,
                         .b = feature_panel,
                         .b_depth = panel_width(),
                         .c = value_panel,
                         .c_row = panel_width(),
                         .rows = map.head_dim,
                         .depth = map.features});
}

// Features [features][width] of a panel of values: total, transposed, times values.
HWY_INLINE void features_from_values(const FeatureMapping& map,
                                     const float* total,
                                     const float* value_panel,
                                     float* feature_panel) {
  multiply<Start::zero>({.a = total,
                         .a_row = 1,
                         .a_depth = map.padded_features,
                         .b = value_panel,
                         .b_depth = panel_width(),
                         .c = feature_panel,
                         .c_row = panel_width(),
                         .rows = map.features,
                         .depth = map.head_dim});
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

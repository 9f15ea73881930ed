#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/linear_backward.cc"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/linear_blocks-inl.h"
#include "cpu/linear_layout.h"
#include "cpu/linear_meetings.h"

#include <hwy/highway.h>

#include <algorithm>
#include <type_traits>

// Three passes: the sums of every block of keys; then the queries, each of which needs the totals
// of the keys that it meets, and leaves the sums of its own gradients; then the keys, which need
// the totals of those. (arXiv 2509.24006 Algorithm 2, with the sums of marginal tiles as products.)

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

// minus_delta[lane] = -(dout . out) of one panel, by way of `out_panel`.
template <typename T>
void panel_minus_delta(const LinearBackwardProblem& problem,
                       const T* out,
                       std::ptrdiff_t rows,
                       const float* HWY_RESTRICT dout_panel,
                       float* HWY_RESTRICT out_panel,
                       float* HWY_RESTRICT minus_delta) {
  const F32 d;
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t lanes = hn::Lanes(d);
  rows_to_panel(out, problem.out.strides[2], rows, problem.head_dim, 1.0f, width, out_panel);
  V32 sum0 = hn::Zero(d);
  V32 sum1 = sum0;
  for (std::ptrdiff_t i = 0; i < problem.head_dim * width; i += width) {
    sum0 = hn::NegMulAdd(hn::Load(d, out_panel + i), hn::Load(d, dout_panel + i), sum0);
    sum1 = hn::NegMulAdd(hn::Load(d, out_panel + i + lanes), hn::Load(d, dout_panel + i + lanes),
                         sum1);
  }
  hn::Store(sum0, d, minus_delta);
  hn::Store(sum1, d, minus_delta + lanes);
}

// panel[feature][lane] += weights[lane] * row[feature]; without weights, += row[feature].
HWY_INLINE void add_row_to_panel(const float* HWY_RESTRICT row,
                                 std::ptrdiff_t features,
                                 const float* HWY_RESTRICT weights,
                                 float* HWY_RESTRICT panel) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  const V32 w0 = hn::Load(d, weights);
  const V32 w1 = hn::Load(d, weights + lanes);
  for (std::ptrdiff_t i = 0; i < features; ++i, panel += 2 * lanes) {
    const V32 x = hn::Set(d, row[i]);
    hn::Store(hn::MulAdd(x, w0, hn::Load(d, panel)), d, panel);
    hn::Store(hn::MulAdd(x, w1, hn::Load(d, panel + lanes)), d, panel + lanes);
  }
}

// panel[row][lane] *= factors[lane]
HWY_INLINE void scale_panel(const float* HWY_RESTRICT factors,
                            std::ptrdiff_t rows,
                            float* HWY_RESTRICT panel) {
  const V32 factor[2] = {load_half(factors, 0, 0), load_half(factors, 0, 1)};
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    for (int j = 0; j < 2; ++j) {
      store_half(hn::Mul(load_half(panel, row, j), factor[j]), row, j, panel);
    }
  }
}

// Rows without weight contribute nothing to the sums, even where dout is NaN.
HWY_INLINE void forget_weightless(const FeatureMapping& map,
                                  const LinearScratch& scratch,
                                  std::ptrdiff_t first,
                                  std::ptrdiff_t rows) {
  for (std::ptrdiff_t row = 0; row < rows; ++row) {
    if (scratch.factors[row] != 0.0f) continue;
    const RowBuffer& values = scratch.values;
    std::fill_n(values.at + (first + row) * values.stride, map.head_dim, 0.0f);
    scratch.last[first + row] = 0.0f;
  }
}

// Rows of a panel [head_dim][width]: written, or added to what is there.
template <typename T>
void store_panel(const LinearBackwardProblem& problem,
                 const float* panel,
                 const LinearScratch& scratch,
                 T* to,
                 std::ptrdiff_t to_stride,
                 std::ptrdiff_t rows) {
  if (problem.adds_gradients) {
    panel_to_rows<true>(panel, panel_width(), scratch.ones, to, to_stride, rows, problem.head_dim);
  } else {
    panel_to_rows(panel, panel_width(), scratch.ones, to, to_stride, rows, problem.head_dim);
  }
}

// Writes, or adds, the gradients of a panel of tokens, given those of their features.
template <typename T>
void store_gradients(const LinearBackwardProblem& problem,
                     const FeatureMapping& map,
                     const T* x,
                     std::ptrdiff_t x_stride,
                     std::ptrdiff_t rows,
                     const LinearScratch& scratch,
                     float* dweight,
                     T* to,
                     std::ptrdiff_t to_stride) {
  map_panel_backward(map, scratch.feature_panel, scratch.gradient_panel);
  const float* gradient = scratch.gradient_panel;
  if (map.kind == FeatureMap::hedgehog) {
    copy_rows(x, x_stride, 1.0f, scratch.x_rows.at, scratch.x_rows.stride, rows, map.head_dim);
    gradient = project_back(map, gradient, scratch.x_rows, rows, scratch.result_panel, dweight);
  }
  store_panel(problem, gradient, scratch, to, to_stride, rows);
}

// The block of queries [begin, end): dq, and the sums that the keys will need.
template <typename T>
void backward_query_block(const LinearBackwardProblem& problem,
                          const FeatureMapping& map,
                          const LinearQueryBlocks& at,
                          std::int64_t block,
                          std::int64_t begin,
                          std::int64_t end,
                          const float* total,
                          const LinearScratch& scratch,
                          const BlockSums& sums,
                          float* dweight) {
  const std::ptrdiff_t width = panel_width();
  const float* key_total = total + map.matrix_floats();
  for_each_piece(begin, end, [&](std::int64_t piece, std::int64_t count) {
    for (std::int64_t first = 0; first < count; first += width) {
      const std::int64_t rows = std::min<std::int64_t>(width, count - first);
      const std::int64_t query = piece + first;
      const T* q = row_of<const T>(problem.q, at.batch, at.head, query);
      const T* dout = row_of<const T>(problem.dout, at.batch, at.head, query);
      float* minus_delta = scratch.last + first;
      map_rows(map, q, problem.q.strides[2], rows, scratch, feature_panel(scratch));
      inverse_denominators(map, scratch.feature_panel, total, static_cast<float>(problem.epsilon),
                           nullptr, scratch.factors);
      rows_to_panel(dout, problem.dout.strides[2], rows, map.head_dim, 1.0f, width,
                    scratch.value_panel);
      panel_minus_delta(problem, row_of<const T>(problem.out, at.batch, at.head, query), rows,
                        scratch.value_panel, scratch.result_panel, minus_delta);
      features_from_values(map, total, scratch.value_panel, scratch.gradient_panel,
                           rows_after(q, problem.q.strides[2], width, map.head_dim),
                           rows_after(dout, problem.dout.strides[2], width, map.head_dim));
      add_row_to_panel(key_total, map.features, minus_delta, scratch.gradient_panel);
      scale_panel(scratch.factors, map.features, scratch.gradient_panel);
      clear_weightless(scratch.factors, map.features, scratch.gradient_panel);
      keep_features(map, scratch.factors, first, rows, scratch);
      keep_values(map, dout, problem.dout.strides[2], first, rows, scratch);
      forget_weightless(map, scratch, first, rows);
      store_gradients(problem, map, q, problem.q.strides[2], rows, scratch, dweight,
                      row_of<T>(problem.gradients.dq, at.batch, at.head, query),
                      problem.gradients.dq.strides[2]);
    }
    const T* out = row_of<const T>(problem.out, at.batch, at.head, piece);
    const T* dq = row_of<const T>(problem.gradients.dq, at.batch, at.head, piece);
    add_to_sums(map, scratch, {scratch.values.at, scratch.values.stride}, count, piece == begin,
                sums, block, rows_after(out, problem.out.strides[2], count, map.head_dim),
                rows_after(dq, problem.gradients.dq.strides[2], count, map.head_dim));
  });
}

void backward_queries(const LinearBackwardProblem& problem,
                      const FeatureMapping& map,
                      const LinearQueryBlocks& at,
                      const TokenBlocks& queries,
                      const Meetings& meetings,
                      const BlockSums& key_sums,
                      const LinearScratch& scratch,
                      const BlockSums& query_sums,
                      float* dweight) {
  total_up<Start::zero>(key_sums, meetings, map.state_floats(), scratch.tables, scratch.totals);
  with_element(problem.q.dtype, [&](auto* element) HWY_ATTR {
    using T = std::remove_pointer_t<decltype(element)>;
    for (std::int64_t block = at.begin; block < at.end; ++block) {
      if (!meetings.has_any(block - at.begin)) {
        clear_gradient(problem, problem.gradients.dq, at.batch, at.head, queries.begin(block),
                       queries.end(block));
        clear_sums(map, query_sums, block);
        continue;
      }
      backward_query_block<T>(problem, map, at, block, queries.begin(block), queries.end(block),
                              scratch.totals + (block - at.begin) * map.state_floats(), scratch,
                              query_sums, dweight);
    }
  });
}

// The block of keys [begin, end): dk and dv.
template <typename T>
void backward_key_block(const LinearBackwardProblem& problem,
                        const FeatureMapping& map,
                        const LinearKeyBlocks& at,
                        std::int64_t begin,
                        std::int64_t end,
                        const float* total,
                        const LinearScratch& scratch,
                        float* dweight) {
  const LinearGradients& gradients = problem.gradients;
  const std::ptrdiff_t width = panel_width();
  const float* query_total = total + map.matrix_floats();
  for (std::int64_t first = begin; first < end; first += width) {
    const std::int64_t rows = std::min<std::int64_t>(width, end - first);
    const T* k = row_of<const T>(problem.k, at.batch, at.key_head, first);
    const T* v = row_of<const T>(problem.v, at.batch, at.key_head, first);
    T* dk = row_of<T>(gradients.dk, at.batch, at.key_head, first);
    T* dv = row_of<T>(gradients.dv, at.batch, at.key_head, first);
    map_rows(map, k, problem.k.strides[2], rows, scratch, feature_panel(scratch));
    values_from_features(map, total, scratch.feature_panel, scratch.result_panel,
                         rows_after(k, problem.k.strides[2], width, map.head_dim),
                         rows_after(v, problem.v.strides[2], width, map.head_dim));
    store_panel(problem, scratch.result_panel, scratch, dv, gradients.dv.strides[2], rows);
    rows_to_panel(v, problem.v.strides[2], rows, map.head_dim, 1.0f, width, scratch.value_panel);
    features_from_values(map, total, scratch.value_panel, scratch.gradient_panel,
                         rows_after(dk, gradients.dk.strides[2], width, map.head_dim),
                         rows_after(dv, gradients.dv.strides[2], width, map.head_dim));
    add_row_to_panel(query_total, map.features, scratch.ones, scratch.gradient_panel);
    store_gradients(problem, map, k, problem.k.strides[2], rows, scratch, dweight, dk,
                    gradients.dk.strides[2]);
  }
}

// Some blocks of keys, which meet the queries of several heads.
void backward_keys(const LinearBackwardProblem& problem,
                   const FeatureMapping& map,
                   const LinearKeyBlocks& at,
                   const TokenBlocks& keys,
                   const LinearLayout& layout,
                   std::int64_t first_query_sums,
                   const LinearScratch& scratch,
                   float* dweight) {
  const std::int64_t heads = problem.heads_per_key_head();
  for (std::int64_t i = 0; i < heads; ++i) {
    const Meetings meetings = list_met_queries(problem, at, at.key_head * heads + i, scratch.met);
    const BlockSums sums = layout.query_sums(first_query_sums + i);
    i == 0
        ? total_up<Start::zero>(sums, meetings, map.state_floats(), scratch.tables, scratch.totals)
        : total_up<Start::add>(sums, meetings, map.state_floats(), scratch.tables, scratch.totals);
  }
  with_element(problem.k.dtype, [&](auto* element) HWY_ATTR {
    using T = std::remove_pointer_t<decltype(element)>;
    for (std::int64_t block = at.begin; block < at.end; ++block) {
      if (!meets_queries(problem, at, block)) {
        for (const TensorView& tensor : {problem.gradients.dk, problem.gradients.dv}) {
          clear_gradient(problem, tensor, at.batch, at.key_head, keys.begin(block),
                         keys.end(block));
        }
        continue;
      }
      backward_key_block<T>(problem, map, at, keys.begin(block), keys.end(block),
                            scratch.totals + (block - at.begin) * map.state_floats(), scratch,
                            dweight);
    }
  });
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cpu {
namespace {

HWY_EXPORT(backward_queries);
HWY_EXPORT(backward_keys);

void backward_group(const Execution& execution,
                    const LinearBackwardProblem& problem,
                    const LinearLayout& layout,
                    HeadRange range) {
  sum_all_keys(execution, problem, layout, range);
  const std::int64_t per_key_head = problem.heads_per_key_head();
  for_each_query_unit(execution, problem, layout, range,
                      [&](int worker, std::int64_t index, const LinearQueryBlocks& at) {
                        const TokenBlocks queries = layout.queries(problem, at.batch);
                        if (at.is_last) {
                          clear_gradient(problem, problem.gradients.dq, at.batch, at.head,
                                         at.key_blocks == 0 ? 0 : queries.valid,
                                         problem.grid.q_len);
                        }
                        const std::int64_t head_of_batch = at.batch * problem.grid.heads + at.head;
                        float* dweight = layout.query_weight_part(head_of_batch, at.unit);
                        if (dweight != nullptr) std::fill_n(dweight, layout.weight_floats(), 0.0f);
                        if (at.begin >= at.end) return;
                        const LinearScratch scratch = layout.scratch(problem, worker);
                        const std::int64_t sums = index * per_key_head + at.head % per_key_head;
                        HWY_DYNAMIC_DISPATCH(backward_queries)
                        (problem, layout.query_mapping(problem, at.head), at, queries,
                         list_met_keys(problem, at, scratch.met), layout.key_sums(index), scratch,
                         layout.query_sums(sums), dweight);
                      });
  for_each_key_unit(execution, problem, layout, range,
                    [&](int worker, std::int64_t index, const LinearKeyBlocks& at) {
                      const TokenBlocks keys = layout.keys(problem, at.batch);
                      const std::int64_t begin = at.query_blocks == 0 ? 0 : keys.valid;
                      if (at.is_last) {
                        clear_gradient(problem, problem.gradients.dk, at.batch, at.key_head, begin,
                                       problem.grid.k_len);
                        clear_gradient(problem, problem.gradients.dv, at.batch, at.key_head, begin,
                                       problem.grid.k_len);
                      }
                      float* dweight = layout.key_weight_part(range.begin + index, at.unit);
                      if (dweight != nullptr) std::fill_n(dweight, layout.weight_floats(), 0.0f);
                      if (at.begin >= at.end) return;
                      HWY_DYNAMIC_DISPATCH(backward_keys)
                      (problem, layout.key_mapping(problem, at.key_head), at, keys, layout,
                       index * per_key_head, layout.scratch(problem, worker), dweight);
                    });
}

// Sums up the parts of a head's gradient of W, over units and samples, in order.
template <typename PartOf>
void store_weight_gradient(const TensorView& to,
                           std::int64_t head,
                           std::int64_t head_dim,
                           std::int64_t padded_head_dim,
                           std::int64_t parts,
                           PartOf&& part_of) {
  float* matrix = static_cast<float*>(to.data) + head * head_dim * head_dim;
  std::fill_n(matrix, head_dim * head_dim, 0.0f);
  for (std::int64_t i = 0; i < parts; ++i) {
    const float* part = part_of(i);
    for (std::int64_t row = 0; row < head_dim; ++row) {
      for (std::int64_t column = 0; column < head_dim; ++column) {
        matrix[row * head_dim + column] += part[row * padded_head_dim + column];
      }
    }
  }
}

void store_weight_gradients(const Execution& execution,
                            const LinearBackwardProblem& problem,
                            const LinearLayout& layout) {
  if (!problem.q_weight) return;
  const std::int64_t heads = problem.grid.heads;
  const std::int64_t padded = layout.weight_floats() / problem.head_dim;
  for_each_unit(execution, heads + problem.k_heads, [&](int, std::int64_t unit) {
    const bool is_key = unit >= heads;
    const std::int64_t head = is_key ? unit - heads : unit;
    const std::int64_t units = is_key ? layout.key_units() : layout.query_units();
    store_weight_gradient(
        is_key ? problem.gradients.dk_weight : problem.gradients.dq_weight, head, problem.head_dim,
        padded, problem.grid.batch * units, [&](std::int64_t part) {
          const std::int64_t batch = part / units;
          return is_key ? layout.key_weight_part(batch * problem.k_heads + head, part % units)
                        : layout.query_weight_part(batch * heads + head, part % units);
        });
  });
}

}  // namespace

std::size_t workspace_size(const LinearBackwardProblem& problem, int workers) {
  Arena arena;
  LinearLayout(arena, problem, workers, linear_panel_width(), true);
  return arena.used();
}

void linear_backward(const Execution& execution, const LinearBackwardProblem& problem) {
  Arena arena(execution.workspace);
  const LinearLayout layout(arena, problem, execution.workers, linear_panel_width(), true);
  const std::int64_t key_heads = problem.grid.batch * problem.k_heads;
  for (std::int64_t begin = 0; begin < key_heads; begin += layout.group) {
    backward_group(execution, problem, layout, {begin, std::min(begin + layout.group, key_heads)});
  }
  store_weight_gradients(execution, problem, layout);
}

}  // namespace saccade::cpu

#endif

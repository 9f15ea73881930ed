#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/linear_keys.cc"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on

#include "core/parallel.h"
#include "cpu/linear_blocks-inl.h"
#include "cpu/linear_layout.h"
#include "cpu/linear_meetings.h"

#include <hwy/highway.h>

#include <algorithm>
#include <type_traits>

// What linear attention does first, forward and backward: features of the keys, and their sums.

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

std::ptrdiff_t floats_in_panel() {
  return panel_width();
}

// W -> the panels that project_rows reads, and those of its transpose. Columns beyond head_dim
// become 0.
void pack_projection(const float* weight,
                     std::ptrdiff_t head_dim,
                     float* projection,
                     float* back_projection) {
  const std::ptrdiff_t width = panel_width();
  for (std::ptrdiff_t first = 0; first < head_dim; first += width) {
    // Panel lane i, depth j: W[first + i][j].
    rows_to_panel(weight + first * head_dim, head_dim, head_dim - first, head_dim, 1.0f, width,
                  projection + first * head_dim);
    // Panel lane j, depth i: W[i][first + j].
    const std::ptrdiff_t columns = std::min(width, head_dim - first);
    float* panel = back_projection + first * head_dim;
    if (columns < width) std::fill_n(panel, head_dim * width, 0.0f);
    copy_rows(weight + first, head_dim, 1.0f, panel, width, head_dim, columns);
  }
}

void pack_head_projection(const TensorView& weight, std::int64_t head, float* to) {
  const std::ptrdiff_t head_dim = weight.shape[1];
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t padded = (head_dim + width - 1) / width * width;
  pack_projection(static_cast<const float*>(weight.data) + head * head_dim * head_dim, head_dim, to,
                  to + head_dim * padded);
}

// phi(k) and the sums of one block of keys.
template <typename T>
void sum_keys(const LinearProblem& problem,
              const FeatureMapping& map,
              std::int64_t batch,
              std::int64_t key_head,
              std::int64_t begin,
              std::int64_t end,
              const LinearScratch& scratch,
              const BlockSums& sums,
              std::int64_t block) {
  for_each_piece(begin, end, [&](std::int64_t first, std::int64_t count) {
    map_tokens(map, row_of<const T>(problem.k, batch, key_head, first), problem.k.strides[2], count,
               scratch.x_rows, scratch.features);
    const FloatRows values =
        float_rows<T>(problem.v, batch, key_head, first, count, scratch.values);
    add_to_sums(map, scratch.features, values, scratch.ones, count, first == begin, sums, block);
  });
}

void sum_block_of_keys(const LinearProblem& problem,
                       const FeatureMapping& map,
                       const LinearKeyBlock& at,
                       const LinearScratch& scratch,
                       const BlockSums& sums) {
  with_element(problem.k.dtype, [&](auto* element) HWY_ATTR {
    sum_keys<std::remove_pointer_t<decltype(element)>>(problem, map, at.batch, at.key_head,
                                                       at.begin, at.end, scratch, sums, at.block);
  });
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cpu {
namespace {

HWY_EXPORT(floats_in_panel);
HWY_EXPORT(pack_head_projection);
HWY_EXPORT(sum_block_of_keys);

}  // namespace

std::ptrdiff_t linear_panel_width() {
  return HWY_DYNAMIC_DISPATCH(floats_in_panel)();
}

void pack_projections(const Execution& execution,
                      const LinearProblem& problem,
                      const LinearLayout& layout) {
  if (!problem.q_weight) return;
  for_each_unit(execution, problem.grid.heads + problem.k_heads, [&](int, std::int64_t unit) {
    const bool is_key = unit >= problem.grid.heads;
    const std::int64_t head = is_key ? unit - problem.grid.heads : unit;
    HWY_DYNAMIC_DISPATCH(pack_head_projection)
    (is_key ? problem.k_weight : problem.q_weight, head, layout.projection_of(is_key, head));
  });
}

void sum_all_keys(const Execution& execution,
                  const LinearProblem& problem,
                  const LinearLayout& layout,
                  HeadRange key_heads) {
  const std::int64_t blocks = layout.key_blocks();
  for_each_unit(execution, (key_heads.end - key_heads.begin) * blocks,
                [&](int worker, std::int64_t unit) {
                  const std::int64_t index = unit / blocks;
                  const std::int64_t head_of_batch = key_heads.begin + index;
                  const std::int64_t batch = head_of_batch / problem.k_heads;
                  const std::int64_t key_head = head_of_batch % problem.k_heads;
                  const TokenBlocks keys = layout.keys(problem, batch);
                  const std::int64_t block = unit % blocks;
                  if (block >= keys.count()) return;
                  HWY_DYNAMIC_DISPATCH(sum_block_of_keys)
                  (problem, layout.key_mapping(problem, key_head),
                   {batch, key_head, block, keys.begin(block), keys.end(block)},
                   layout.scratch(problem, worker), layout.key_sums(index));
                });
}

}  // namespace saccade::cpu

#endif

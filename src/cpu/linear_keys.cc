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

// phi(k) and the sums of one block of keys.
template <typename T>
void sum_keys(const LinearProblem& problem,
              const FeatureMapping& map,
              const LinearKeyBlock& at,
              const LinearScratch& scratch,
              const BlockSums& sums) {
  const std::ptrdiff_t width = panel_width();
  for_each_piece(at.begin, at.end, [&](std::int64_t piece, std::int64_t count) {
    const T* k = row_of<const T>(problem.k, at.batch, at.key_head, piece);
    const T* v = row_of<const T>(problem.v, at.batch, at.key_head, piece);
    for (std::int64_t first = 0; first < count; first += width) {
      map_rows(map, k + first * problem.k.strides[2], problem.k.strides[2],
               std::min<std::int64_t>(width, count - first), scratch,
               {scratch.features.at + first, scratch.features.stride});
    }
    std::fill_n(scratch.last, count, 1.0f);
    std::fill(scratch.last + count, scratch.last + LinearLayout::kPiece, 0.0f);
    FloatRows values = rows_in_place(map, v, problem.v.strides[2]);
    if (values.at == nullptr) {
      keep_values(map, v, problem.v.strides[2], 0, count, scratch);
      values = {scratch.values.at, scratch.values.stride};
    }
    add_to_sums(map, scratch, values, count, piece == at.begin, sums, at.block,
                rows_after(k, problem.k.strides[2], count, map.head_dim),
                rows_after(v, problem.v.strides[2], count, map.head_dim));
  });
}

void sum_block_of_keys(const LinearProblem& problem,
                       const FeatureMapping& map,
                       const LinearKeyBlock& at,
                       const LinearScratch& scratch,
                       const BlockSums& sums) {
  with_element(problem.k.dtype, [&](auto* element) HWY_ATTR {
    sum_keys<std::remove_pointer_t<decltype(element)>>(problem, map, at, scratch, sums);
  });
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cpu {
namespace {

HWY_EXPORT(floats_in_panel);
HWY_EXPORT(sum_block_of_keys);

}  // namespace

std::ptrdiff_t linear_panel_width() {
  return HWY_DYNAMIC_DISPATCH(floats_in_panel)();
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

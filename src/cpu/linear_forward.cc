#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/linear_forward.cc"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/key_value_packing.h"
#include "cpu/linear_blocks-inl.h"
#include "cpu/linear_layout.h"
#include "cpu/linear_meetings.h"

#include <hwy/highway.h>

#include <algorithm>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

// out of the queries [begin, end), which meet the blocks that `total` sums up.
template <typename T>
void store_queries(const LinearForwardProblem& problem,
                   const FeatureMapping& map,
                   std::int64_t batch,
                   std::int64_t head,
                   std::int64_t begin,
                   std::int64_t end,
                   const float* total,
                   const LinearScratch& scratch) {
  const std::ptrdiff_t width = panel_width();
  float* divisors = scratch.last;  // of one panel; they cancel but beside epsilon
  for (std::int64_t first = begin; first < end; first += width) {
    const std::int64_t rows = std::min<std::int64_t>(width, end - first);
    T* out = row_of<T>(problem.out, batch, head, first);
    const T* q = row_of<const T>(problem.q, batch, head, first);
    map_rows(map, q, problem.q.strides[2], rows, scratch, feature_panel(scratch), divisors);
    inverse_denominators(map, scratch.feature_panel, total, static_cast<float>(problem.epsilon),
                         divisors, scratch.factors);
    values_from_features(map, total, scratch.feature_panel, scratch.result_panel,
                         rows_after(q, problem.q.strides[2], width, map.head_dim),
                         rows_after(out, problem.out.strides[2], width, map.head_dim));
    clear_weightless(scratch.factors, map.head_dim, scratch.result_panel);
    panel_to_rows(scratch.result_panel, width, scratch.factors, out, problem.out.strides[2], rows,
                  map.head_dim);
  }
}

// Some blocks of queries of one head, and the keys that they meet.
void forward_queries(const LinearForwardProblem& problem,
                     const FeatureMapping& map,
                     const LinearQueryBlocks& at,
                     const TokenBlocks& queries,
                     const Meetings& meetings,
                     const BlockSums& key_sums,
                     const LinearScratch& scratch) {
  total_up<Start::zero>(key_sums, meetings, map.state_floats(), scratch.tables, scratch.totals);
  with_element(problem.q.dtype, [&](auto* element) HWY_ATTR {
    using T = std::remove_pointer_t<decltype(element)>;
    for (std::int64_t block = at.begin; block < at.end; ++block) {
      if (!meetings.has_any(block - at.begin)) {
        clear_rows(problem.out, at.batch, at.head, queries.begin(block), queries.end(block));
        continue;
      }
      store_queries<T>(problem, map, at.batch, at.head, queries.begin(block), queries.end(block),
                       scratch.totals + (block - at.begin) * map.state_floats(), scratch);
    }
  });
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cpu {
namespace {

HWY_EXPORT(forward_queries);

}  // namespace

std::size_t workspace_size(const LinearForwardProblem& problem, int workers) {
  Arena arena;
  LinearLayout(arena, problem, workers, linear_panel_width(), false);
  return arena.used();
}

void linear_forward(const Execution& execution, const LinearForwardProblem& problem) {
  Arena arena(execution.workspace);
  const LinearLayout layout(arena, problem, execution.workers, linear_panel_width(), false);
  const std::int64_t key_heads = problem.grid.batch * problem.k_heads;
  for (std::int64_t begin = 0; begin < key_heads; begin += layout.group) {
    const HeadRange range = {begin, std::min(begin + layout.group, key_heads)};
    sum_all_keys(execution, problem, layout, range);
    for_each_query_unit(execution, problem, layout, range,
                        [&](int worker, std::int64_t index, const LinearQueryBlocks& at) {
                          const TokenBlocks queries = layout.queries(problem, at.batch);
                          if (at.is_last) {
                            clear_rows(problem.out, at.batch, at.head,
                                       at.key_blocks == 0 ? 0 : queries.valid, problem.grid.q_len);
                          }
                          if (at.begin >= at.end) return;
                          const LinearScratch scratch = layout.scratch(problem, worker);
                          HWY_DYNAMIC_DISPATCH(forward_queries)
                          (problem, layout.query_mapping(problem, at.head), at, queries,
                           list_met_keys(problem, at, scratch.met), layout.key_sums(index),
                           scratch);
                        });
  }
}

}  // namespace saccade::cpu

#endif

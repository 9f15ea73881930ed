#pragma once

#include "core/parallel.h"
#include "cpu/element.h"
#include "cpu/key_value_packing.h"
#include "cpu/linear_layout.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

// The units of work of linear attention, and which blocks meet in them.

namespace saccade::cpu {

struct LinearKeyBlock {
  std::int64_t batch, key_head, block;
  std::int64_t begin, end;  // tokens
};

// Consecutive blocks of queries of one head, and the number of blocks of keys of its sample.
struct LinearQueryBlocks {
  std::int64_t batch, head;
  std::int64_t begin, end;  // blocks; empty beyond the valid queries
  std::int64_t key_blocks;
  std::int64_t unit;
  bool is_last;  // unit of its head
};

// Consecutive blocks of keys of one key head, and the number of blocks of queries of its sample.
struct LinearKeyBlocks {
  std::int64_t batch, key_head;
  std::int64_t begin, end;  // blocks; empty beyond the valid keys
  std::int64_t query_blocks;
  std::int64_t unit;
  bool is_last;  // unit of its head
};

// Clears the rows [begin, end) of one head.
inline void clear_rows(const TensorView& tensor,
                       std::int64_t batch,
                       std::int64_t head,
                       std::int64_t begin,
                       std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row) {
    with_element(tensor.dtype, [&](auto* element) {
      using T = std::remove_pointer_t<decltype(element)>;
      std::fill_n(row_of<T>(tensor, batch, head, row), tensor.shape[3], T{});
    });
  }
}

// The same for gradients of rows that have none.
inline void clear_gradient(const LinearBackwardProblem& problem,
                           const TensorView& gradient,
                           std::int64_t batch,
                           std::int64_t head,
                           std::int64_t begin,
                           std::int64_t end) {
  if (!problem.adds_gradients) clear_rows(gradient, batch, head, begin, end);
}

inline bool meets(const LinearProblem& problem,
                  std::int64_t batch,
                  std::int64_t head,
                  std::int64_t query_block,
                  std::int64_t key_block) {
  const std::uint64_t* row = problem.tile_row(batch, head, query_block);
  return row == nullptr || ((row[key_block / 64] >> (key_block % 64)) & 1) != 0;
}

// Writes the words of one target: bit i is set where meets(i).
template <typename F>
void list_met(std::int64_t sources, std::uint32_t* words, F&& meets) {
  for (std::int64_t first = 0; first < sources; first += Meetings::kWordBits) {
    const std::int64_t count = std::min(Meetings::kWordBits, sources - first);
    std::uint32_t bits = 0;
    for (std::int64_t i = 0; i < count; ++i) bits |= std::uint32_t{meets(first + i)} << i;
    *words++ = bits;
  }
}

// The keys that each block of queries meets; `words` has room for them.
inline Meetings list_met_keys(const LinearProblem& problem,
                              const LinearQueryBlocks& at,
                              std::uint32_t* words) {
  const Meetings meetings = {words, at.end - at.begin, at.key_blocks};
  for (std::int64_t query = at.begin; query < at.end; ++query) {
    list_met(at.key_blocks, words,
             [&](std::int64_t key) { return meets(problem, at.batch, at.head, query, key); });
    words += meetings.words_per_target();
  }
  return meetings;
}

// The queries of one head that each block of keys meets.
inline Meetings list_met_queries(const LinearProblem& problem,
                                 const LinearKeyBlocks& at,
                                 std::int64_t head,
                                 std::uint32_t* words) {
  const Meetings meetings = {words, at.end - at.begin, at.query_blocks};
  for (std::int64_t key = at.begin; key < at.end; ++key) {
    list_met(at.query_blocks, words,
             [&](std::int64_t query) { return meets(problem, at.batch, head, query, key); });
    words += meetings.words_per_target();
  }
  return meetings;
}

// Whether a block of keys meets any queries: if not its gradients are 0, whatever it holds.
inline bool meets_queries(const LinearProblem& problem,
                          const LinearKeyBlocks& at,
                          std::int64_t key_block) {
  const std::int64_t heads = problem.heads_per_key_head();
  for (std::int64_t head = at.key_head * heads; head < (at.key_head + 1) * heads; ++head) {
    for (std::int64_t query = 0; query < at.query_blocks; ++query) {
      if (meets(problem, at.batch, head, query, key_block)) return true;
    }
  }
  return false;
}

// Calls f(worker, index of the key head in the range, blocks of queries) for every unit of the
// query heads that read these key heads.
template <typename F>
void for_each_query_unit(const Execution& execution,
                         const LinearProblem& problem,
                         const LinearLayout& layout,
                         HeadRange key_heads,
                         F&& f) {
  const std::int64_t per_key_head = problem.heads_per_key_head();
  const std::int64_t units = layout.query_units();
  const std::int64_t heads = (key_heads.end - key_heads.begin) * per_key_head;
  for_each_unit(execution, heads * units, [&](int worker, std::int64_t i) {
    const std::int64_t head_of_batch = key_heads.begin * per_key_head + i / units;
    const std::int64_t batch = head_of_batch / problem.grid.heads;
    const std::int64_t unit = i % units;
    const std::int64_t begin = unit * layout.targets;
    const std::int64_t count = layout.queries(problem, batch).count();
    const std::int64_t key_blocks = layout.keys(problem, batch).count();
    f(worker, i / units / per_key_head,
      LinearQueryBlocks{batch, head_of_batch % problem.grid.heads, begin,
                        key_blocks == 0 ? begin : std::min(begin + layout.targets, count),
                        key_blocks, unit, unit + 1 == units});
  });
}

// Calls f(worker, index of the key head in the range, blocks of keys) for every unit.
template <typename F>
void for_each_key_unit(const Execution& execution,
                       const LinearProblem& problem,
                       const LinearLayout& layout,
                       HeadRange key_heads,
                       F&& f) {
  const std::int64_t units = layout.key_units();
  for_each_unit(
      execution, (key_heads.end - key_heads.begin) * units, [&](int worker, std::int64_t i) {
        const std::int64_t index = i / units;
        const std::int64_t head_of_batch = key_heads.begin + index;
        const std::int64_t batch = head_of_batch / problem.k_heads;
        const std::int64_t unit = i % units;
        const std::int64_t begin = unit * layout.targets;
        const std::int64_t count = layout.keys(problem, batch).count();
        const std::int64_t query_blocks = layout.queries(problem, batch).count();
        f(worker, index,
          LinearKeyBlocks{batch, head_of_batch % problem.k_heads, begin,
                          query_blocks == 0 ? begin : std::min(begin + layout.targets, count),
                          query_blocks, unit, unit + 1 == units});
      });
}

// Floats in a panel of the instruction set in use.
std::ptrdiff_t linear_panel_width();

// The sums of all blocks of some key heads.
void sum_all_keys(const Execution& execution,
                  const LinearProblem& problem,
                  const LinearLayout& layout,
                  HeadRange key_heads);

}  // namespace saccade::cpu

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_backward.cc"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on

#include "core/parallel.h"
#include "cpu/backward_layout.h"
#include "cpu/backward_queries-inl.h"
#include "cpu/cpu_backend.h"
#include "cpu/element.h"
#include "cpu/micro_kernel-inl.h"
#include "cpu/pack-inl.h"
#include "cpu/softmax_gradient-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <numbers>

// One pass over the active tiles with five products each (S, dP, dQ, dV, dK). Tiles are walked by
// column, so dK and dV are finished in one go; dQ is summed up in a fixed number of slots per head,
// each of which owns a fixed set of columns. Two passes (rows, then columns) would need no slots,
// but seven products and a second exp.

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

std::ptrdiff_t backward_panel_width() {
  return panel_width();
}

std::int64_t keys_of(const BackwardProblem& problem, const ColumnOfTiles& column) {
  const std::int64_t block_k = problem.grid.block_k;
  return std::clamp<std::int64_t>(problem.valid_keys(column.batch) - column.k_tile * block_k, 0,
                                  block_k);
}

// What a visit leaves to fetch for the one after it: its queries and, if it is the last of its
// column, the keys and values of the next column.
struct NextVisit {
  QueryBuffers query;
  bool is_last = false;
  PackedHead keys{};
  std::ptrdiff_t key_count = 0;
};

// One column of tiles: all that its keys and values give and receive.
template <typename Word>
class BackwardColumn {
 public:
  BackwardColumn(const BackwardProblem& problem,
                 const ColumnOfTiles& column,
                 const ColumnScratch& scratch)
      : problem_(problem),
        column_(column),
        scratch_(scratch),
        head_dim_(problem.head_dim),
        row_words_(head_dim_ / Word::kElements),
        width_(panel_width()),
        logit_scale_(static_cast<float>(std::abs(problem.scale) * std::numbers::log2e)),
        keys_(keys_of(problem, column)) {}

  // Adds some queries of one row of tiles; meanwhile fetches what comes next.
  void visit_queries(const QueryBuffers& query,
                     std::ptrdiff_t queries,
                     bool starts_dq,
                     const NextVisit& next) {
    const std::ptrdiff_t panels = (queries + width_ - 1) / width_;
    for (std::ptrdiff_t panel = 0; panel < panels; ++panel) {
      visit_panel(query, queries, panel, panels, starts_dq, next);
    }
    // Of a last panel that is not full, floats end with the last query, pairs with the panel.
    const std::ptrdiff_t depth = Word::kElements == 1 ? queries : panels * width_ / 2;
    const std::ptrdiff_t strip_words = problem_.grid.block_q * width_ / Word::kElements;
    const std::ptrdiff_t key_blocks = BlockCut(keys_).blocks();
    const AttentionBackwardOutputs& outputs = problem_.outputs;
    for (std::ptrdiff_t column = 0; column < head_dim_; column += width_) {
      const std::ptrdiff_t strip = column / width_ * strip_words;
      add_strip(scratch_.s, query.dout_strips + strip, depth,
                scratch_.dv + column * problem_.grid.block_k,
                Prefetch(key_blocks, Region::of(next.query.dout_strips + strip, depth * width_),
                         next.is_last ? stored_region(outputs.dv, column) : Region()));
      add_strip(scratch_.dp, query.q_strips + strip, depth,
                scratch_.dk + column * problem_.grid.block_k,
                Prefetch(key_blocks, Region::of(next.query.q_strips + strip, depth * width_),
                         next.is_last ? stored_region(outputs.dk, column) : Region()));
    }
    is_empty_ = false;
  }

  template <typename T>
  void store() {
    store_rows<T>(problem_.outputs.dk, scratch_.dk, static_cast<float>(problem_.scale));
    store_rows<T>(problem_.outputs.dv, scratch_.dv, 1.0f);
  }

 private:
  // S, dP, the softmax between them, and dQ.
  void visit_panel(const QueryBuffers& query,
                   std::ptrdiff_t queries,
                   std::ptrdiff_t panel,
                   std::ptrdiff_t panels,
                   bool starts_dq,
                   const NextVisit& next) {
    const std::ptrdiff_t first = panel * width_;
    const std::ptrdiff_t panel_words = width_ * row_words_;
    const std::ptrdiff_t at = panel * panel_words;
    const std::ptrdiff_t dq_at = first * head_dim_;
    const std::ptrdiff_t key_blocks = BlockCut(keys_).blocks();
    const auto next_rows = [&](const TokenRows& rows) {
      return Region::of_words(rows.words, row_words_, rows.stride, next.key_count)
          .part(panel, panels);
    };
    multiply<Start::zero, false, Word>(
        keys_by_panel(column_.keys.k, query.q_panels + at, scratch_.s + first), nullptr, nullptr,
        Prefetch(key_blocks, Region::of(next.query.q_panels + at, panel_words),
                 next_rows(next.keys.k)));
    multiply<Start::zero, false, Word>(
        keys_by_panel(column_.keys.v, query.dout_panels + at, scratch_.dp + first), nullptr,
        nullptr,
        Prefetch(key_blocks, Region::of(next.query.dout_panels + at, panel_words),
                 next_rows(next.keys.v)));
    softmax_gradient(Word(), {.keys = keys_,
                              .queries = queries - first,
                              .lse = query.lse + first,
                              .delta = query.delta + first,
                              .logit_scale = logit_scale_,
                              .stride = scratch_.stride,
                              .s = scratch_.s + first,
                              .dp = scratch_.dp + first,
                              .p = scratch_.s + first / Word::kElements,
                              .ds = scratch_.dp + first / Word::kElements,
                              .ds_by_key = scratch_.ds_by_key});
    constexpr bool is_float = Word::kElements == 1;
    constexpr Panels kPanelsOfDs = is_float ? Panels::strided : Panels::packed;
    const Product<RowsOfA::stand, kPanelsOfDs> dq = {
        .a = column_.keys.k_by_token.words,
        .a_stride = column_.keys.k_by_token.stride,
        .b = is_float ? scratch_.dp + first : scratch_.ds_by_key,
        .b_stride = is_float ? scratch_.stride : panel_width(),
        .c = query.dq_panels + dq_at,
        .rows = head_dim_,
        .depth = (keys_ + Word::kElements - 1) / Word::kElements};
    const Prefetch prefetch(BlockCut(head_dim_).blocks(),
                            Region::of(next.query.dq_panels + dq_at, width_ * head_dim_));
    starts_dq ? multiply<Start::zero, false, Word>(dq, nullptr, nullptr, prefetch)
              : multiply<Start::add, false, Word>(dq, nullptr, nullptr, prefetch);
  }

  // Where one strip of dK or dV will be stored.
  Region stored_region(const TensorView& to, std::ptrdiff_t column) const {
    const std::ptrdiff_t element = static_cast<std::ptrdiff_t>(size_of(to.dtype));
    const std::int64_t offset = column_.batch * to.strides[0] + column_.key_head * to.strides[1] +
                                column_.k_tile * problem_.grid.block_k * to.strides[2] + column;
    return {static_cast<const char*>(to.data) + offset * element,
            std::min(width_, head_dim_ - column) * element, to.strides[2] * element, keys_};
  }

  // rows (K or V) times a panel of queries (or output gradients).
  Product<RowsOfA::lie, Panels::packed, Panels::strided> keys_by_panel(const TokenRows& rows,
                                                                       const float* panel,
                                                                       float* c) const {
    return {.a = rows.words,
            .a_stride = rows.stride,
            .b = panel,
            .c = c,
            .c_stride = scratch_.stride,
            .rows = keys_,
            .depth = row_words_};
  }

  // to[key][lane] += sum over queries of weights[key][query] * strip[query][lane]; `depth` words.
  void add_strip(const float* weights,
                 const float* strip,
                 std::ptrdiff_t depth,
                 float* to,
                 const Prefetch& prefetch) {
    const Product<RowsOfA::lie> product = {.a = weights,
                                           .a_stride = scratch_.stride,
                                           .b = strip,
                                           .c = to,
                                           .rows = keys_,
                                           .depth = depth};
    is_empty_ ? multiply<Start::zero, false, Word>(product, nullptr, nullptr, prefetch)
              : multiply<Start::add, false, Word>(product, nullptr, nullptr, prefetch);
  }

  template <typename T>
  void store_rows(const TensorView& to, const float* strips, float factor) {
    const std::int64_t first = column_.k_tile * problem_.grid.block_k;
    const std::int64_t rows = std::min<std::int64_t>(problem_.grid.block_k, to.shape[2] - first);
    const std::int64_t written = is_empty_ ? 0 : keys_;
    T* target = row_of<T>(to, column_.batch, column_.key_head, first);
    for (std::ptrdiff_t column = 0; written > 0 && column < head_dim_; column += width_) {
      copy_rows(strips + column * problem_.grid.block_k, width_, factor, target + column,
                to.strides[2], written, std::min(width_, head_dim_ - column));
    }
    for (std::int64_t row = written; row < rows; ++row) {
      std::fill_n(target + row * to.strides[2], head_dim_, T{});
    }
  }

  const BackwardProblem& problem_;
  const ColumnOfTiles& column_;
  const ColumnScratch& scratch_;
  const std::ptrdiff_t head_dim_;
  const std::ptrdiff_t row_words_;  // of a query or a key
  const std::ptrdiff_t width_;
  const float logit_scale_;
  const std::ptrdiff_t keys_;
  bool is_empty_ = true;
};

// Calls visit(head_of_group * q_tiles + q_tile) for the active rows of tiles of one column until it
// returns false.
template <typename F>
void for_each_row(const BackwardProblem& problem, const ColumnOfTiles& column, F&& visit) {
  if (column.k_tile >= problem.valid_k_tiles(column.batch)) return;
  const std::int64_t group = problem.heads_per_key_head();
  const std::int64_t first_head = column.batch * problem.grid.heads + column.key_head * group;
  for (std::int64_t h = 0; h < group; ++h) {
    for (std::int64_t q_tile = 0; q_tile < problem.valid_q_tiles(column.batch); ++q_tile) {
      if (!is_active(problem, first_head + h, q_tile, column.k_tile)) continue;
      if (!visit(static_cast<std::int32_t>(h * problem.grid.q_tiles() + q_tile))) return;
    }
  }
}

std::int64_t list_column(const BackwardProblem& problem,
                         const ColumnOfTiles& column,
                         std::int32_t* rows) {
  std::int64_t listed = 0;
  for_each_row(problem, column, [&](std::int32_t row) {
    rows[listed++] = row;
    return true;
  });
  return listed;
}

// The visit that a slot begins with after column `k_tile`.
struct VisitAfterColumn {
  VisitAfterColumn(const BackwardProblem& problem,
                   const Slot& slot,
                   const HeadBuffers& buffers,
                   std::int64_t k_tile) {
    while (keys == 0 && ++k_tile < problem.grid.k_tiles()) {
      if (buffers.slot_of_column[k_tile] != slot.index) continue;
      column = buffers.column(problem, slot, k_tile);
      for_each_row(problem, column, [&](std::int32_t first) {
        row = first;
        keys = keys_of(problem, column);
        return false;
      });
    }
  }

  std::int32_t row = 0;
  ColumnOfTiles column{};
  std::int64_t keys = 0;  // of the column; 0 = there is no further visit
};

// Visits the tiles of one column in pieces of at most `chunk` queries.
template <typename Word>
void visit_column(const BackwardProblem& problem,
                  const Slot& slot,
                  const HeadBuffers& buffers,
                  const ColumnScratch& scratch,
                  std::int64_t listed,
                  const VisitAfterColumn& after,
                  BackwardColumn<Word>& backward) {
  const std::int64_t q_tiles = problem.grid.q_tiles();
  const std::int64_t first_head = slot.key_head * problem.heads_per_key_head();
  const auto buffers_of = [&](std::int32_t row) {
    return buffers.query(problem, row / q_tiles, row % q_tiles, slot.index);
  };
  for (std::int64_t entry = 0; entry < listed; ++entry) {
    const bool is_last = entry + 1 == listed;
    const std::int32_t row = scratch.rows[entry];
    const QueryTile tile(problem, first_head + row / q_tiles, row % q_tiles);
    const QueryBuffers query = buffers_of(row);
    const NextVisit next_row = {.query = buffers_of(is_last ? after.row : scratch.rows[entry + 1]),
                                .is_last = is_last,
                                .keys = after.column.keys,
                                .key_count = is_last ? after.keys : 0};
    std::uint8_t& touched = buffers.touched(slot.index)[row];
    for (std::int64_t first = 0; first < tile.queries; first += scratch.chunk) {
      const std::int64_t end = first + scratch.chunk;
      const std::int64_t queries = std::min<std::int64_t>(scratch.chunk, tile.queries - first);
      backward.visit_queries(
          query.from(problem, first), queries, touched == 0,
          end < tile.queries ? NextVisit{.query = query.from(problem, end)} : next_row);
    }
    touched = 1;
  }
}

// All columns of one slot. `touched` tells which rows of tiles of each head have a sum in the slot.
template <typename Word>
void visit_slot(const BackwardProblem& problem,
                const Slot& slot,
                const HeadBuffers& buffers,
                const ColumnScratch& scratch) {
  std::fill_n(buffers.touched(slot.index), buffers.touched_per_slot, std::uint8_t{0});
  for (std::int64_t k_tile = 0; k_tile < problem.grid.k_tiles(); ++k_tile) {
    if (buffers.slot_of_column[k_tile] != slot.index) continue;
    const ColumnOfTiles column = buffers.column(problem, slot, k_tile);
    BackwardColumn<Word> backward(problem, column, scratch);
    const std::int64_t listed = list_column(problem, column, scratch.rows);
    if (listed > 0) {
      visit_column(problem, slot, buffers, scratch, listed,
                   VisitAfterColumn(problem, slot, buffers, k_tile), backward);
    }
    with_element(problem.k.dtype, [&](auto* element) HWY_ATTR {
      backward.template store<std::remove_pointer_t<decltype(element)>>();
    });
  }
}

void backward_slot(const BackwardProblem& problem,
                   const Slot& slot,
                   const HeadBuffers& buffers,
                   const ColumnScratch& scratch) {
  with_words(words_of(problem), [&](auto word) HWY_ATTR {
    visit_slot<decltype(word)>(problem, slot, buffers, scratch);
  });
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cpu {
namespace {

HWY_EXPORT(backward_panel_width);
HWY_EXPORT(prepare_queries);
HWY_EXPORT(backward_slot);
HWY_EXPORT(store_dq);

// Calls f(worker, head, head_of_group, q_tile, buffers) for every row of tiles of the key heads.
template <typename F>
void for_each_query_tile(const Execution& execution,
                         const BackwardProblem& problem,
                         const BackwardLayout& layout,
                         HeadRange key_heads,
                         F&& f) {
  const std::int64_t group = problem.heads_per_key_head();
  const std::int64_t q_tiles = problem.grid.q_tiles();
  for_each_unit(execution, (key_heads.end - key_heads.begin) * group * q_tiles,
                [&](int worker, auto unit) {
                  const std::int64_t head = key_heads.begin * group + unit / q_tiles;
                  const std::int64_t index = unit / q_tiles / group;
                  f(worker, head, head % group, unit % q_tiles,
                    layout.head_buffers(problem, key_heads, index));
                });
}

void backward_group(const Execution& execution,
                    const BackwardProblem& problem,
                    const BackwardLayout& layout,
                    HeadRange key_heads) {
  layout.packing.pack(execution, problem, key_heads);
  for_each_query_tile(
      execution, problem, layout, key_heads,
      [&](int worker, auto head, auto head_of_group, auto q_tile, const HeadBuffers& buffers) {
        if (!has_active_tile(problem, head, q_tile)) return;
        HWY_DYNAMIC_DISPATCH(prepare_queries)
        (problem, head, q_tile, buffers.query(problem, head_of_group, q_tile, 0),
         layout.column_scratch(problem, worker).s);
      });
  const std::int64_t units = layout.list_slots(problem, key_heads);
  for_each_unit(execution, units, [&](int worker, std::int64_t i) {
    const Slot& slot = layout.units[i];
    HWY_DYNAMIC_DISPATCH(backward_slot)
    (problem, slot, layout.head_buffers(problem, key_heads, slot.key_head - key_heads.begin),
     layout.column_scratch(problem, worker));
  });
  for_each_query_tile(execution, problem, layout, key_heads,
                      [&](int worker, auto head, auto, auto q_tile, const HeadBuffers& buffers) {
                        HWY_DYNAMIC_DISPATCH(store_dq)
                        (problem, head, q_tile, buffers, layout.column_scratch(problem, worker).s);
                      });
}

}  // namespace

std::size_t workspace_size(const BackwardProblem& problem, int workers) {
  Arena arena;
  BackwardLayout(arena, problem, workers, HWY_DYNAMIC_DISPATCH(backward_panel_width)());
  return arena.used();
}

void attention_backward(const Execution& execution, const BackwardProblem& problem) {
  Arena arena(execution.workspace);
  const BackwardLayout layout(arena, problem, execution.workers,
                              HWY_DYNAMIC_DISPATCH(backward_panel_width)());
  const std::int64_t key_heads = problem.grid.batch * problem.k_heads;
  for (std::int64_t begin = 0; begin < key_heads; begin += layout.group) {
    backward_group(execution, problem, layout, {begin, std::min(begin + layout.group, key_heads)});
  }
}

}  // namespace saccade::cpu

#endif

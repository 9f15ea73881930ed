// Included once per instruction set; see foreach_target.h.
#if defined(SACCADE_CPU_BACKWARD_QUERIES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SACCADE_CPU_BACKWARD_QUERIES_INL_H_
#undef SACCADE_CPU_BACKWARD_QUERIES_INL_H_
#else
#define SACCADE_CPU_BACKWARD_QUERIES_INL_H_
#endif

#include "cpu/backward_layout.h"
#include "cpu/constants.h"
#include "cpu/element.h"
#include "cpu/micro_kernel-inl.h"
#include "cpu/pack-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <type_traits>

// What the backward pass does once per row of tiles: before the columns, queries and output
// gradients are brought into the forms that the products read; after them, dQ is summed up and
// stored.

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

// Queries [first_query, first_query + queries) of one head: a row of tiles.
struct QueryTile {
  QueryTile(const BackwardProblem& problem, std::int64_t head_of_batch, std::int64_t tile)
      : batch(head_of_batch / problem.grid.heads),
        head(head_of_batch % problem.grid.heads),
        q_tile(tile),
        first_query(tile * problem.grid.block_q),
        queries(std::clamp<std::int64_t>(
            problem.valid_queries(batch) - first_query, 0, problem.grid.block_q)) {}

  std::int64_t batch, head, q_tile, first_query, queries;
};

// NaN without a payload, which rounding to pairs could take for something else.
inline float plain_nan(float value) {
  return std::isnan(value) ? std::numeric_limits<float>::quiet_NaN() : value;
}

// delta = rowsum(dout * out) - dlse for the queries of one panel.
// The sum runs over head_dim in the order of the product that gives dP. A query that attends to one
// key has out == v, so dP - delta is exactly zero for it, as it should be.
template <typename Word, typename T>
void panel_delta(const BackwardProblem& problem,
                 const QueryTile& tile,
                 std::ptrdiff_t first,
                 const float* HWY_RESTRICT dout_panel,
                 float* HWY_RESTRICT out_panel,
                 float* HWY_RESTRICT delta) {
  const F32 d;
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t rows = std::min<std::int64_t>(width, tile.queries - first);
  rows_to_word_panel<Word>(
      row_of<const T>(problem.out, tile.batch, tile.head, tile.first_query + first),
      problem.out.strides[2], rows, problem.head_dim, 1.0f, width, out_panel);
  const std::ptrdiff_t lanes = hn::Lanes(d);
  V32 sum0 = hn::Zero(d);
  V32 sum1 = sum0;
  for (std::ptrdiff_t i = 0; i < problem.head_dim / Word::kElements; ++i) {
    const float* HWY_RESTRICT o = out_panel + i * width;
    const float* HWY_RESTRICT g = dout_panel + i * width;
    sum0 = Word::multiply_add(hn::Load(d, o), hn::Load(d, g), sum0);
    sum1 = Word::multiply_add(hn::Load(d, o + lanes), hn::Load(d, g + lanes), sum1);
  }
  hn::Store(sum0, d, delta);
  hn::Store(sum1, d, delta + lanes);
  if (!problem.dlse) return;
  for (std::ptrdiff_t i = 0; i < rows; ++i) {
    delta[i] = plain_nan(delta[i] - *row_of<const float>(problem.dlse, tile.batch, tile.head,
                                                         tile.first_query + first + i));
  }
}

template <typename T>
HWY_INLINE void prefetch_rows(const T* rows,
                              std::ptrdiff_t row_stride,
                              std::ptrdiff_t row_count,
                              std::ptrdiff_t head_dim) {
  constexpr std::ptrdiff_t kLine = 64 / sizeof(T);
  for (std::ptrdiff_t row = 0; row < row_count; ++row) {
    for (std::ptrdiff_t i = 0; i < head_dim; i += kLine) {
      __builtin_prefetch(rows + row * row_stride + i);
    }
  }
}

// The rows of one panel cut into strips of `width` columns; row by row, which the hardware
// prefetcher follows.
template <typename Word, typename T>
void rows_to_strips(const T* rows,
                    std::ptrdiff_t row_stride,
                    std::ptrdiff_t row_count,
                    std::ptrdiff_t head_dim,
                    std::ptrdiff_t strip_words,
                    float* strips) {
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t tail = head_dim % width;
  const std::ptrdiff_t strip_rows = Word::kElements == 1 ? row_count : width / 2;
  // The lanes beyond head_dim only need to be harmless.
  if (tail > 0) std::fill_n(strips + head_dim / width * strip_words, strip_rows * width, 0.0f);
  for (std::ptrdiff_t i = 0; i < strip_rows; ++i) {
    for (std::ptrdiff_t column = 0; column < head_dim; column += width) {
      const T* from = rows + i * row_stride + column;
      float* to = strips + column / width * strip_words + i * width;
      const std::ptrdiff_t columns = std::min(width, head_dim - column);
      if constexpr (Word::kElements == 1) {
        copy_rows(from, row_stride, 1.0f, to, width, 1, columns);
      } else {
        const bool has_second = i + width / 2 < row_count;
        zip_rows(i < row_count ? from : nullptr,
                 has_second ? from + width / 2 * row_stride : nullptr, columns, to);
      }
    }
  }
}

// The queries and output gradients of one row of tiles in both forms that the products read, with
// lse (log2 units) and delta beside them. Panel by panel, strips first: panels are then made from
// rows that are in L1.
template <typename Word, typename T>
void prepare_query_tile(const BackwardProblem& problem,
                        const QueryTile& tile,
                        const QueryBuffers& to,
                        float* out_panel) {
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t head_dim = problem.head_dim;
  const std::ptrdiff_t strip_words = problem.grid.block_q * width / Word::kElements;
  const float scale = static_cast<float>(problem.scale * std::numbers::log2e);
  for (std::ptrdiff_t first = 0; first < tile.queries; first += width) {
    const std::ptrdiff_t rows = std::min<std::int64_t>(width, tile.queries - first);
    const T* q = row_of<const T>(problem.q, tile.batch, tile.head, tile.first_query + first);
    const T* dout = row_of<const T>(problem.dout, tile.batch, tile.head, tile.first_query + first);
    const std::ptrdiff_t q_stride = problem.q.strides[2];
    const std::ptrdiff_t dout_stride = problem.dout.strides[2];
    const QueryBuffers panel = to.from(problem, first);
    prefetch_rows(row_of<const T>(problem.out, tile.batch, tile.head, tile.first_query + first),
                  problem.out.strides[2], rows, head_dim);
    rows_to_strips<Word>(q, q_stride, rows, head_dim, strip_words, panel.q_strips);
    rows_to_word_panel<Word>(q, q_stride, rows, head_dim, scale, width, panel.q_panels);
    rows_to_strips<Word>(dout, dout_stride, rows, head_dim, strip_words, panel.dout_strips);
    rows_to_word_panel<Word>(dout, dout_stride, rows, head_dim, 1.0f, width, panel.dout_panels);
    panel_delta<Word, T>(problem, tile, first, panel.dout_panels, out_panel, panel.delta);
  }
  const std::ptrdiff_t padded = (tile.queries + width - 1) / width * width;
  std::fill_n(to.lse, padded, 0.0f);
  for (std::int64_t i = 0; i < tile.queries; ++i) {
    const float lse =
        *row_of<const float>(problem.lse, tile.batch, tile.head, tile.first_query + i);
    // A row without mass has no weights: far above every logit, its exponentials vanish.
    to.lse[i] = lse == -kInfinity ? -kFloor : plain_nan(lse * kLog2e);
  }
}

void prepare_queries(const BackwardProblem& problem,
                     std::int64_t head_of_batch,
                     std::int64_t q_tile,
                     const QueryBuffers& to,
                     float* out_panel) {
  const QueryTile tile(problem, head_of_batch, q_tile);
  with_words(words_of(problem), [&](auto word) HWY_ATTR {
    using Word = decltype(word);
    with_element_of<Word>(problem.q.dtype, [&](auto* element) HWY_ATTR {
      using T = std::remove_pointer_t<decltype(element)>;
      prepare_query_tile<Word, T>(problem, tile, to, out_panel);
    });
  });
}

// to += from
HWY_INLINE void add_floats(const float* HWY_RESTRICT from, std::ptrdiff_t count, float* to) {
  const F32 d;
  for (std::ptrdiff_t i = 0; i < count; i += hn::Lanes(d)) {
    hn::Store(hn::Add(hn::Load(d, to + i), hn::Load(d, from + i)), d, to + i);
  }
}

// dQ of one row of tiles: the sums of all slots that touched it, in slot order.
template <typename T>
void store_dq_tile(const BackwardProblem& problem,
                   const QueryTile& tile,
                   std::int64_t head_of_group,
                   const HeadBuffers& buffers,
                   float* factors) {
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t head_dim = problem.head_dim;
  float* parts[kMaxSlots];
  int part_count = 0;
  for (int slot = 0; slot < buffers.slots; ++slot) {
    if (!buffers.touched(slot)[head_of_group * problem.grid.q_tiles() + tile.q_tile]) continue;
    parts[part_count++] = buffers.query(problem, head_of_group, tile.q_tile, slot).dq_panels;
  }
  const TensorView& dq = problem.outputs.dq;
  const auto row = [&](std::int64_t i) {
    return row_of<T>(dq, tile.batch, tile.head, tile.first_query + i);
  };
  const std::int64_t written = part_count == 0 ? 0 : tile.queries;
  std::fill_n(factors, width, static_cast<float>(problem.scale));
  for (std::ptrdiff_t first = 0; first < written; first += width) {
    const std::int64_t rows = std::min<std::int64_t>(width, written - first);
    prefetch_rows(row(first), dq.strides[2], rows, head_dim);
    float* sum = parts[0] + first * head_dim;
    for (int part = 1; part < part_count; ++part) {
      add_floats(parts[part] + first * head_dim, width * head_dim, sum);
    }
    panel_to_rows(sum, width, factors, row(first), dq.strides[2], rows, head_dim);
  }
  const std::int64_t rows =
      std::min<std::int64_t>(problem.grid.block_q, problem.grid.q_len - tile.first_query);
  for (std::int64_t i = written; i < rows; ++i) std::fill_n(row(i), head_dim, T{});
}

void store_dq(const BackwardProblem& problem,
              std::int64_t head_of_batch,
              std::int64_t q_tile,
              const HeadBuffers& buffers,
              float* factors) {
  const QueryTile tile(problem, head_of_batch, q_tile);
  with_element(problem.q.dtype, [&](auto* element) HWY_ATTR {
    store_dq_tile<std::remove_pointer_t<decltype(element)>>(
        problem, tile, head_of_batch % problem.heads_per_key_head(), buffers, factors);
  });
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

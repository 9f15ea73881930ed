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

// delta = rowsum(dout * out) - dlse for the queries of one panel.
// The sum runs over head_dim in the order of the product that gives dP. A query that attends to one
// key has out == v, so dP - delta is exactly zero for it, as it should be.
template <typename T>
void panel_delta(const BackwardProblem& problem,
                 const QueryTile& tile,
                 std::ptrdiff_t first,
                 const float* HWY_RESTRICT dout_panel,
                 float* HWY_RESTRICT out_panel,
                 float* HWY_RESTRICT delta) {
  const F32 d;
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t head_dim = problem.head_dim;
  const std::ptrdiff_t rows = std::min<std::int64_t>(width, tile.queries - first);
  rows_to_panel(row_of<const T>(problem.out, tile.batch, tile.head, tile.first_query + first),
                problem.out.strides[2], rows, head_dim, 1.0f, width, out_panel);
  for (std::ptrdiff_t lane = 0; lane < width; lane += hn::Lanes(d)) {
    V32 sum = hn::Zero(d);
    for (std::ptrdiff_t i = 0; i < head_dim; ++i) {
      sum = hn::MulAdd(hn::Load(d, out_panel + i * width + lane),
                       hn::Load(d, dout_panel + i * width + lane), sum);
    }
    hn::Store(sum, d, delta + lane);
  }
  if (!problem.dlse) return;
  for (std::ptrdiff_t i = 0; i < rows; ++i) {
    delta[i] -=
        *row_of<const float>(problem.dlse, tile.batch, tile.head, tile.first_query + first + i);
  }
}

// The queries and output gradients of one row of tiles in both forms that the products read, with
// lse (log2 units) and delta beside them.
template <typename T>
void prepare_query_tile(const BackwardProblem& problem,
                        const QueryTile& tile,
                        const QueryBuffers& to,
                        float* out_panel) {
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t head_dim = problem.head_dim;
  const float scale = static_cast<float>(problem.scale * std::numbers::log2e);
  const T* q = row_of<const T>(problem.q, tile.batch, tile.head, tile.first_query);
  const T* dout = row_of<const T>(problem.dout, tile.batch, tile.head, tile.first_query);
  for (std::ptrdiff_t first = 0; first < tile.queries; first += width) {
    const std::ptrdiff_t rows = tile.queries - first;
    float* dout_panel = to.dout_panels + first * head_dim;
    rows_to_panel(q + first * problem.q.strides[2], problem.q.strides[2], rows, head_dim, scale,
                  width, to.q_panels + first * head_dim);
    rows_to_panel(dout + first * problem.dout.strides[2], problem.dout.strides[2], rows, head_dim,
                  1.0f, width, dout_panel);
    panel_delta<T>(problem, tile, first, dout_panel, out_panel, to.delta + first);
  }
  for (std::ptrdiff_t column = 0; column < head_dim; column += width) {
    const std::ptrdiff_t columns = std::min(width, head_dim - column);
    const std::ptrdiff_t strip = column * problem.grid.block_q;
    if (columns < width) {  // the lanes beyond head_dim only need to be harmless
      std::fill_n(to.q_strips + strip, tile.queries * width, 0.0f);
      std::fill_n(to.dout_strips + strip, tile.queries * width, 0.0f);
    }
    copy_rows(q + column, problem.q.strides[2], 1.0f, to.q_strips + strip, width, tile.queries,
              columns);
    copy_rows(dout + column, problem.dout.strides[2], 1.0f, to.dout_strips + strip, width,
              tile.queries, columns);
  }
  const std::ptrdiff_t padded = (tile.queries + width - 1) / width * width;
  std::fill_n(to.lse, padded, 0.0f);
  for (std::int64_t i = 0; i < tile.queries; ++i) {
    const float lse =
        *row_of<const float>(problem.lse, tile.batch, tile.head, tile.first_query + i);
    // A row without mass has no weights: far above every logit, its exponentials vanish.
    to.lse[i] = lse == -kInfinity ? -kFloor : lse * kLog2e;
  }
}

void prepare_queries(const BackwardProblem& problem,
                     std::int64_t head_of_batch,
                     std::int64_t q_tile,
                     const QueryBuffers& to,
                     float* out_panel) {
  const QueryTile tile(problem, head_of_batch, q_tile);
  with_element(problem.q.dtype, [&](auto* element) HWY_ATTR {
    prepare_query_tile<std::remove_pointer_t<decltype(element)>>(problem, tile, to, out_panel);
  });
}

// dQ of one row of tiles: the sums of all slots that touched it, in slot order.
template <typename T>
void store_dq_tile(const BackwardProblem& problem,
                   const QueryTile& tile,
                   std::int64_t head_of_group,
                   const HeadBuffers& buffers,
                   float* factors) {
  const F32 d;
  const std::ptrdiff_t width = panel_width();
  const std::ptrdiff_t head_dim = problem.head_dim;
  const std::ptrdiff_t panels = (tile.queries + width - 1) / width;
  float* sum = nullptr;
  for (int slot = 0; slot < buffers.slots; ++slot) {
    if (!buffers.touched(slot)[head_of_group * problem.grid.q_tiles() + tile.q_tile]) continue;
    float* part = buffers.query(problem, head_of_group, tile.q_tile, slot).dq_panels;
    if (sum == nullptr) {
      sum = part;
      continue;
    }
    for (std::ptrdiff_t i = 0; i < panels * width * head_dim; i += hn::Lanes(d)) {
      hn::Store(hn::Add(hn::Load(d, sum + i), hn::Load(d, part + i)), d, sum + i);
    }
  }
  const TensorView& dq = problem.outputs.dq;
  const auto row = [&](std::int64_t i) {
    return row_of<T>(dq, tile.batch, tile.head, tile.first_query + i);
  };
  const std::int64_t written = sum == nullptr ? 0 : tile.queries;
  std::fill_n(factors, width, static_cast<float>(problem.scale));
  for (std::ptrdiff_t first = 0; first < written; first += width) {
    panel_to_rows(sum + first * head_dim, width, factors, row(first), dq.strides[2],
                  std::min<std::int64_t>(width, written - first), head_dim);
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

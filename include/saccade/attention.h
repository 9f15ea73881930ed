#pragma once

#include <saccade/context.h>
#include <saccade/measure.h>
#include <saccade/tensor_view.h>
#include <saccade/tile_index.h>
#include <saccade/tile_mask.h>

#include <cstddef>
#include <optional>

// Attention over the active tiles of a mask, forward and backward.
//
// Shapes: q [batch, q_heads, q_len, head_dim]; k, v [batch, k_heads, k_len, head_dim], given by
// strides, so BSHD tensors are passed as transposed views. q_heads is a multiple of k_heads: query
// head h reads key head h / (q_heads / k_heads). Lengths are at least 1 and need not be equal.
// q, k, v share one dtype (f16, bf16, f32; f64 on the reference backend) and have unit stride in
// head_dim. The cpu backend takes head_dim in multiples of 16 up to 256.
//
// Logits S = scale * q k^T and lse are natural-log quantities. NaN in an input propagates.
// Host calls return when the work is done. Nothing is written before all checks have passed.

namespace saccade {

struct AttentionInputs {
  TensorView q{}, k{}, v{};

  // Absent = dense. Its grid must be that of q and k. A tile whose bit is zero is not touched: its
  // keys take no part in the softmax of its rows.
  TileMaskView tiles{};

  // i32 [batch], each in [0, q_len] and [0, k_len]; absent = full length. Rows and keys beyond them
  // are never read (they may hold NaN).
  TensorView q_lens{}, k_lens{};

  // f32 (f64 with f64 inputs) [batch, q_heads, q_len]: the lse of an earlier step. Given, largest
  // weights are measured against it (see AttentionForwardOutputs::scores); absent, against the
  // running row maximum. Masses are those of this step and take no reference.
  TensorView ref{};

  // f32 [batch, q_heads, q_tiles, k_tiles], densely packed; needed for, and only with,
  // VisitOrder::strongest: a row visits its tiles by falling priority, such as the score of an
  // earlier step. NaN comes first, ties ascend. Those of tiles that are not computed mean nothing.
  TensorView priorities{};
};

struct AttentionForwardOptions {
  std::optional<double> scale{};  // absent = 1 / sqrt(head_dim); any finite value
  // <= 0, log2 units; needed for, and only with, marks and skips_values.
  std::optional<double> threshold{};
  Measure measure = Measure::largest_weight;
  VisitOrder order = VisitOrder::linear;
  // The keys are a part of those that the rows attend to, and the lse of all of them is not known
  // yet: scores stay max over r of (max_j S[r, j] - ref[r]), neither corrected nor capped (see
  // UpdateMaskInputs::fall). Needs ref, and scores instead of marks.
  bool is_partial = false;
  // Weights that are negligible are left out of this very call (LiteAttention Algorithm 1, after
  // SpargeAttention): of a visit group and the rows of a panel (see VisitPlan) neither exponentials
  // nor products with values are computed where log2(e) * (max_j S[r, j] - m[r]), with the running
  // m of eq. 7, is at most the threshold in every row r of the panel. Every weight left out is at
  // most 2^threshold of the row's largest; lse is that of what was summed up. NaN leaves nothing
  // out, marks and scores are what they would be without. Needs a threshold below 0 (-inf leaves
  // nothing out), largest weights and the running reference.
  bool skips_values = false;
  // With skips_values: rows of a panel; 0 = those of the backend. The reference backend takes any
  // number, and so replays another one's plan; others take theirs.
  int panel_rows = 0;
  // Tile size of a call without `tiles`; with `tiles`, its grid decides.
  int block_q = 128;
  int block_k = 64;
};

struct AttentionForwardOutputs {
  // [batch, q_heads, q_len, head_dim], dtype of q, unit stride in head_dim. A row without an active
  // key, and every row beyond q_lens, becomes 0.
  TensorView out{};

  // Optional, f32 (f64 with f64 inputs) [batch, q_heads, q_len], natural log; -inf where out is 0
  // for want of keys.
  TensorView lse{};

  // Optional: the tiles that were computed and whose score is <= threshold; they need not be
  // computed from the next step on. A threshold of -inf marks nothing. Every word is written.
  TileMaskView marks{};

  // Optional, f32 [batch, q_heads, q_tiles, k_tiles], densely packed: 4 bytes per tile against
  // 1/8 byte for marks. For each computed tile, by measure:
  //   largest_mass, mean_mass: log2 of its share of the softmax of this step, the largest or the
  //     mean over valid rows r of sum_j exp(S[r, j] - lse[r]); rows without any mass count as 0.
  //     Exact whatever the visiting order, but for scores below -100, which may be too high.
  //   largest_weight, running reference: log2(e) * max over valid rows r of (max_j S[r, j] - m[r]),
  //   where m[r] is
  //     the row maximum up to and including the tile's visit group (LiteAttention eq. 7);
  //   largest_weight, lse reference: log2(e) * (max over r of (max_j S[r, j] - ref[r]) + max over r
  //   of
  //     (ref[r] - lse[r])), so that 2^score bounds the tile's largest softmax weight of this step;
  // all capped at 0. NaN anywhere in it makes the score NaN, which never marks. Tiles that are not
  // computed, or hold no valid key, get -inf.
  TensorView scores{};
};

// How a backend walks one row of tiles: a function of the problem only, and of the instruction set,
// never of the number of threads. The reference replays it.
struct VisitPlan {
  VisitOrder order = VisitOrder::linear;
  // Consecutive list entries that one product covers: the running reference m of a tile includes
  // its whole group.
  int group_tiles = 1;
  // Consecutive rows, from the first one of a row of tiles, whose values skips_values leaves out
  // together; those beyond q_lens have no say. Less than a tile's sharpens the rule: a panel may
  // leave out what other rows of the tile need.
  int panel_rows = 128;

  friend bool operator==(const VisitPlan&, const VisitPlan&) = default;
};

// The plan that attention_forward follows. Throws like attention_forward.
VisitPlan visit_plan(const Context& context,
                     const AttentionInputs& inputs,
                     const AttentionForwardOptions& options);

// Bytes of workspace that the call needs: O(k_len * head_dim) for a bounded group of heads where K
// and V must be packed (16-bit or strided), plus O(block_q * head_dim + k_tiles) per worker, and
// for each of at most 64 pieces where rows are so few that they are cut. Masses take another
// 8 bytes for each query and tile of a row of tiles, per worker and per row that is cut.
// Throws like attention_forward.
std::size_t attention_forward_workspace_size(const Context& context,
                                             const AttentionInputs& inputs,
                                             const AttentionForwardOptions& options);

// Softmax attention over the active tiles (arXiv 2511.11062 eq. 4-6, arXiv 2509.24006 eq. 4).
// Results are the same bits for any number of threads. Outputs may not overlap inputs or each
// other. Throws InvalidArgument, or Unsupported with the reason.
void attention_forward(const Context& context,
                       const AttentionInputs& inputs,
                       const AttentionForwardOptions& options,
                       const AttentionForwardOutputs& outputs);

struct AttentionBackwardInputs {
  TensorView q{}, k{}, v{};       // as in the forward call
  TileMaskView tiles{};           // as in the forward call
  TensorView q_lens{}, k_lens{};  // as in the forward call
  TensorView out{}, lse{};        // what the forward call wrote
  TensorView dout{};              // gradient of out: its shape and dtype, unit stride in head_dim
  TensorView dlse{};              // gradient of lse: its shape and dtype; absent = zero
};

struct AttentionBackwardOptions {
  std::optional<double> scale{};  // as in the forward call
  int block_q = 128;              // as in the forward call
  int block_k = 64;
};

// Shapes and dtypes of q, k and v, unit stride in head_dim. Every element is written; those of rows
// and keys beyond q_lens and k_lens become 0.
struct AttentionBackwardOutputs {
  TensorView dq{}, dk{}, dv{};
};

// Bytes of workspace that the call needs: O((q_len + k_len) * head_dim) for a bounded group of
// heads, plus O(block_q * block_k) per worker. Throws like attention_backward.
std::size_t attention_backward_workspace_size(const Context& context,
                                              const AttentionBackwardInputs& inputs,
                                              const AttentionBackwardOptions& options);

// Gradients of attention_forward. With P = exp(S - lse), dP = dout v^T and
// delta = rowsum(dout * out) - dlse:
//   dv = P^T dout,  dS = P * (dP - delta),  dq = scale * dS k,  dk = scale * dS^T q.
// Rows whose lse is -inf have zero gradients. Same bits for any number of threads. Throws
// InvalidArgument, or Unsupported with the reason.
void attention_backward(const Context& context,
                        const AttentionBackwardInputs& inputs,
                        const AttentionBackwardOptions& options,
                        const AttentionBackwardOutputs& outputs);

}  // namespace saccade

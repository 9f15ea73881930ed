#pragma once

#include "core/attention_problem.h"
#include "core/require.h"

#include <string_view>

// Checks that softmax and linear attention share.

namespace saccade {

// q, k and v: present, of one float dtype, of shapes that fit, with unit stride in head_dim.
void require_inputs(const TensorView& q, const TensorView& k, const TensorView& v);

// A tensor like out: [batch, heads, q_len, head_dim] in the dtype of q.
void require_rows(std::string_view name, const TensorView& tensor, const AttentionProblem& like);

// A gradient that is written: shape and dtype of what it is the gradient of.
void require_gradient(std::string_view name, const TensorView& gradient, const TensorView& of);

// Checks what all attention inputs have and stores it in the problem. The block sizes are those of
// `tiles`, or else the given ones.
template <typename Inputs>
void set_inputs(AttentionProblem& problem, const Inputs& inputs, int block_q, int block_k) {
  require_inputs(inputs.q, inputs.k, inputs.v);
  const auto& q_shape = inputs.q.shape;
  problem.q = inputs.q;
  problem.k = inputs.k;
  problem.v = inputs.v;
  problem.k_heads = inputs.k.shape[1];
  problem.head_dim = static_cast<int>(q_shape[3]);
  problem.grid = {.batch = q_shape[0],
                  .heads = q_shape[1],
                  .q_len = q_shape[2],
                  .k_len = inputs.k.shape[2],
                  .block_q = inputs.tiles ? inputs.tiles.grid.block_q : block_q,
                  .block_k = inputs.tiles ? inputs.tiles.grid.block_k : block_k};
  validate(problem.grid);
  if (inputs.tiles) require_mask("tiles", inputs.tiles, problem.grid);
  problem.tiles = inputs.tiles.words;
  require_lengths("q_lens", inputs.q_lens, problem.grid.batch, problem.grid.q_len);
  require_lengths("k_lens", inputs.k_lens, problem.grid.batch, problem.grid.k_len);
  problem.q_lens = inputs.q_lens;
  problem.k_lens = inputs.k_lens;
}

}  // namespace saccade

#include "core/require.h"
#include "core/validate.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <cmath>

namespace saccade {
namespace {

DType statistics_dtype(const AttentionProblem& problem) {
  return problem.q.dtype == DType::f64 ? DType::f64 : DType::f32;
}

void require_inputs(const TensorView& q, const TensorView& k, const TensorView& v) {
  require_present("q", q, 4);
  if (q.dtype == DType::i32) {
    throw InvalidArgument("q has dtype i32, but needs f16, bf16, f32 or f64");
  }
  for (int i = 0; i < 4; ++i) {
    if (q.shape[i] < 1) {
      throw InvalidArgument(
          fmt::format("q has extent {} in dimension {}, but needs at least 1", q.shape[i], i));
    }
  }
  require_present("k", k, 4);
  if (k.shape[1] < 1 || k.shape[2] < 1) {
    throw InvalidArgument(fmt::format("k has {} heads and {} tokens, but needs at least 1 of each",
                                      k.shape[1], k.shape[2]));
  }
  require_tensor("k", k, q.dtype, {q.shape[0], k.shape[1], k.shape[2], q.shape[3]});
  require_tensor("v", v, q.dtype, {q.shape[0], k.shape[1], k.shape[2], q.shape[3]});
  require_head_counts(q.shape[1], k.shape[1]);
  require_unit_stride("q", q);
  require_unit_stride("k", k);
  require_unit_stride("v", v);
}

// What forward and backward have in common.
template <typename Problem, typename Inputs, typename Options>
Problem validate_common(const Inputs& inputs, const Options& options) {
  require_inputs(inputs.q, inputs.k, inputs.v);
  const auto& q_shape = inputs.q.shape;
  Problem problem;
  problem.q = inputs.q;
  problem.k = inputs.k;
  problem.v = inputs.v;
  problem.k_heads = inputs.k.shape[1];
  problem.head_dim = static_cast<int>(q_shape[3]);
  problem.grid = {.batch = q_shape[0],
                  .heads = q_shape[1],
                  .q_len = q_shape[2],
                  .k_len = inputs.k.shape[2],
                  .block_q = inputs.tiles ? inputs.tiles.grid.block_q : options.block_q,
                  .block_k = inputs.tiles ? inputs.tiles.grid.block_k : options.block_k};
  validate(problem.grid);
  if (inputs.tiles) require_mask("tiles", inputs.tiles, problem.grid);
  problem.tiles = inputs.tiles.words;
  require_lengths("q_lens", inputs.q_lens, problem.grid.batch, problem.grid.q_len);
  require_lengths("k_lens", inputs.k_lens, problem.grid.batch, problem.grid.k_len);
  problem.q_lens = inputs.q_lens;
  problem.k_lens = inputs.k_lens;
  problem.scale = resolve_scale(options.scale, problem.head_dim);
  return problem;
}

void require_rows(std::string_view name, const TensorView& tensor, const AttentionProblem& like) {
  const TileGrid& grid = like.grid;
  require_tensor(name, tensor, like.q.dtype, {grid.batch, grid.heads, grid.q_len, like.head_dim});
  require_unit_stride(name, tensor);
}

void require_statistics(std::string_view name,
                        const TensorView& tensor,
                        const AttentionProblem& like) {
  const TileGrid& grid = like.grid;
  require_tensor(name, tensor, statistics_dtype(like), {grid.batch, grid.heads, grid.q_len});
}

void require_gradient(std::string_view name, const TensorView& gradient, const TensorView& of) {
  require_tensor(name, gradient, of.dtype, {of.shape[0], of.shape[1], of.shape[2], of.shape[3]});
  require_unit_stride(name, gradient);
  require_distinct_elements(name, gradient);
}

}  // namespace

ForwardProblem validate_forward(const AttentionInputs& inputs,
                                const AttentionForwardOptions& options) {
  auto problem = validate_common<ForwardProblem>(inputs, options);
  if (options.threshold) require_threshold(*options.threshold);
  name_of(options.order);  // throws unless it is one
  if (inputs.ref) require_statistics("ref", inputs.ref, problem);
  problem.ref = inputs.ref;
  problem.threshold = options.threshold;
  return problem;
}

void attach_outputs(ForwardProblem& problem, const AttentionForwardOutputs& outputs) {
  const TileGrid& grid = problem.grid;
  require_rows("out", outputs.out, problem);
  require_distinct_elements("out", outputs.out);
  if (outputs.lse) {
    require_statistics("lse", outputs.lse, problem);
    require_distinct_elements("lse", outputs.lse);
  }
  if (static_cast<bool>(outputs.marks) != problem.threshold.has_value()) {
    throw InvalidArgument(outputs.marks ? "marks are asked for without a threshold"
                                        : "a threshold is given, but no marks to write");
  }
  if (outputs.marks) require_mask("marks", outputs.marks, grid);
  if (outputs.scores) {
    require_tensor("scores", outputs.scores, DType::f32,
                   {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
    require_packed("scores", outputs.scores);
  }
  if (problem.ref && !outputs.marks && !outputs.scores) {
    throw InvalidArgument("ref is given, but neither marks nor scores to measure against it");
  }
  problem.outputs = outputs;
}

BackwardProblem validate_backward(const AttentionBackwardInputs& inputs,
                                  const AttentionBackwardOptions& options) {
  auto problem = validate_common<BackwardProblem>(inputs, options);
  require_rows("out", inputs.out, problem);
  require_rows("dout", inputs.dout, problem);
  require_statistics("lse", inputs.lse, problem);
  if (inputs.dlse) require_statistics("dlse", inputs.dlse, problem);
  problem.out = inputs.out;
  problem.lse = inputs.lse;
  problem.dout = inputs.dout;
  problem.dlse = inputs.dlse;
  return problem;
}

void attach_outputs(BackwardProblem& problem, const AttentionBackwardOutputs& outputs) {
  require_gradient("dq", outputs.dq, problem.q);
  require_gradient("dk", outputs.dk, problem.k);
  require_gradient("dv", outputs.dv, problem.v);
  problem.outputs = outputs;
}

}  // namespace saccade

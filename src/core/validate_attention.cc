#include "core/require.h"
#include "core/validate.h"
#include "core/validate_inputs.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <cmath>
#include <string>

namespace saccade {
namespace {

DType statistics_dtype(const AttentionProblem& problem) {
  return problem.q.dtype == DType::f64 ? DType::f64 : DType::f32;
}

// What forward and backward have in common.
template <typename Problem, typename Inputs, typename Options>
Problem validate_common(const Inputs& inputs, const Options& options) {
  Problem problem;
  set_inputs(problem, inputs, options.block_q, options.block_k);
  problem.scale = resolve_scale(options.scale, problem.head_dim);
  return problem;
}

void require_statistics(std::string_view name,
                        const TensorView& tensor,
                        const AttentionProblem& like) {
  const TileGrid& grid = like.grid;
  require_tensor(name, tensor, statistics_dtype(like), {grid.batch, grid.heads, grid.q_len});
}

void require_priorities(const TensorView& priorities, VisitOrder order, const TileGrid& grid) {
  const bool is_strongest = order == VisitOrder::strongest;
  if (static_cast<bool>(priorities) != is_strongest) {
    throw InvalidArgument(
        is_strongest
            ? std::string("priorities is missing, but the order strongest needs it")
            : fmt::format("priorities is given, but the order {} has no use for it; leave it out, "
                          "or visit in the order {}",
                          name_of(order), name_of(VisitOrder::strongest)));
  }
  if (!priorities) return;
  require_tensor("priorities", priorities, DType::f32,
                 {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
  require_packed("priorities", priorities);
}

void require_skippable_values(const AttentionInputs& inputs,
                              const AttentionForwardOptions& options) {
  if (options.panel_rows < 0 || (options.panel_rows > 0 && !options.skips_values)) {
    throw InvalidArgument(options.skips_values
                              ? fmt::format("panel_rows is {}, but must be at least 1, or 0 for "
                                            "those of the backend",
                                            options.panel_rows)
                              : std::string("panel_rows is given without skips_values"));
  }
  if (!options.skips_values) return;
  if (!options.threshold || *options.threshold == 0) {
    throw InvalidArgument(
        fmt::format("skips_values needs a threshold below 0, {}",
                    options.threshold ? "not 0, which would leave out the largest weight of a row"
                                      : "but none is given"));
  }
  if (inputs.ref || options.measure != Measure::largest_weight) {
    throw InvalidArgument(
        fmt::format("skips_values is for the {} against the running maximum, {}",
                    name_of(Measure::largest_weight),
                    inputs.ref ? "not against ref; leave one of them out"
                               : fmt::format("not for the {}", name_of(options.measure))));
  }
}

}  // namespace

ForwardProblem validate(const AttentionInputs& inputs, const AttentionForwardOptions& options) {
  auto problem = validate_common<ForwardProblem>(inputs, options);
  if (options.threshold) require_threshold(*options.threshold);
  name_of(options.order);  // throws unless it is one
  if (name_of(options.measure); inputs.ref && options.measure != Measure::largest_weight) {
    throw InvalidArgument(fmt::format(
        "ref is given, but scores of the {} take no reference; leave it out, or measure the {}",
        name_of(options.measure), name_of(Measure::largest_weight)));
  }
  if (inputs.ref) require_statistics("ref", inputs.ref, problem);
  require_priorities(inputs.priorities, options.order, problem.grid);
  problem.ref = inputs.ref;
  problem.priorities = inputs.priorities;
  problem.threshold = options.threshold;
  problem.measure = options.measure;
  problem.is_partial = options.is_partial;
  require_skippable_values(inputs, options);
  problem.skips_values = options.skips_values;
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
  if (outputs.marks && !problem.threshold) {
    throw InvalidArgument("marks are asked for without a threshold");
  }
  if (!outputs.marks && problem.threshold && !problem.skips_values) {
    throw InvalidArgument("a threshold is given, but no marks to write");
  }
  if (outputs.marks) require_mask("marks", outputs.marks, grid);
  if (outputs.scores) {
    require_tensor("scores", outputs.scores, DType::f32,
                   {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
    require_packed("scores", outputs.scores);
  }
  problem.outputs = outputs;
  if (problem.ref && !problem.decides()) {
    throw InvalidArgument("ref is given, but neither marks nor scores to measure against it");
  }
  if (problem.is_partial && (!problem.ref || outputs.marks)) {
    throw InvalidArgument(problem.ref ? "marks are asked for, but keys that are partial only have "
                                        "scores; give scores instead"
                                      : "is_partial is given without ref");
  }
}

BackwardProblem validate(const AttentionBackwardInputs& inputs,
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

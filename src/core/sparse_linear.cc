#include "core/call.h"
#include "core/validate_inputs.h"

#include <saccade/sparse_linear.h>

#include <algorithm>

// The two branches of SLA, one after the other in one workspace. A backend that fuses them will
// take the place of this composition, which stays its oracle.

namespace saccade {
namespace {

AttentionInputs sparse_branch(const SparseLinearInputs& inputs) {
  return {.q = inputs.q,
          .k = inputs.k,
          .v = inputs.v,
          .tiles = inputs.critical,
          .q_lens = inputs.q_lens,
          .k_lens = inputs.k_lens};
}

LinearInputs linear_branch(const SparseLinearInputs& inputs) {
  return {.q = inputs.q,
          .k = inputs.k,
          .v = inputs.v,
          .tiles = inputs.marginal,
          .q_lens = inputs.q_lens,
          .k_lens = inputs.k_lens,
          .q_weight = inputs.q_weight,
          .k_weight = inputs.k_weight};
}

// Both branches, checked; they run one after the other in one workspace.
struct SparseLinearForward {
  SparseLinearForward(const Call& call,
                      const SparseLinearInputs& inputs,
                      const SparseLinearOptions& options)
      : sparse(
            call.problem(sparse_branch(inputs), AttentionForwardOptions{.scale = options.scale})),
        linear(call.problem(linear_branch(inputs), options.linear)),
        bytes(std::max(call.workspace_size(sparse), call.workspace_size(linear))) {}

  ForwardProblem sparse;
  LinearForwardProblem linear;
  std::size_t bytes;
};

struct SparseLinearBackward {
  SparseLinearBackward(const Call& call,
                       const SparseLinearBackwardInputs& inputs,
                       const SparseLinearOptions& options)
      : sparse(
            call.problem(sparse_inputs(inputs), AttentionBackwardOptions{.scale = options.scale})),
        linear(call.problem(linear_inputs(inputs, sparse), adding(options.linear))),
        bytes(std::max(call.workspace_size(sparse), call.workspace_size(linear))) {}

  static AttentionBackwardInputs sparse_inputs(const SparseLinearBackwardInputs& inputs) {
    return {.q = inputs.forward.q,
            .k = inputs.forward.k,
            .v = inputs.forward.v,
            .tiles = inputs.forward.critical,
            .q_lens = inputs.forward.q_lens,
            .k_lens = inputs.forward.k_lens,
            .out = inputs.out,
            .lse = inputs.lse,
            .dout = inputs.dout,
            .dlse = inputs.dlse};
  }
  // linear_backward calls them out and dout.
  static LinearBackwardInputs linear_inputs(const SparseLinearBackwardInputs& inputs,
                                            const BackwardProblem& sparse) {
    require_rows("linear_out", inputs.linear_out, sparse);
    require_rows("dlinear_out", inputs.dlinear_out, sparse);
    return {.forward = linear_branch(inputs.forward),
            .out = inputs.linear_out,
            .dout = inputs.dlinear_out};
  }
  static LinearOptions adding(LinearOptions options) {
    options.adds_gradients = true;
    return options;
  }

  BackwardProblem sparse;
  LinearBackwardProblem linear;
  std::size_t bytes;
};

}  // namespace

std::size_t sparse_linear_forward_workspace_size(const Context& context,
                                                 const SparseLinearInputs& inputs,
                                                 const SparseLinearOptions& options) {
  return SparseLinearForward(Call(context), inputs, options).bytes;
}

void sparse_linear_forward(const Context& context,
                           const SparseLinearInputs& inputs,
                           const SparseLinearOptions& options,
                           const SparseLinearOutputs& outputs) {
  const Call call(context);
  SparseLinearForward problems(call, inputs, options);
  attach_outputs(problems.sparse, {.out = outputs.out, .lse = outputs.lse});
  attach_outputs(problems.linear, outputs.linear_out, "linear_out");
  const Workspace workspace(context.workspace, problems.bytes);
  call.backend.attention_forward(call.execution(workspace.span()), problems.sparse);
  call.backend.linear_forward(call.execution(workspace.span()), problems.linear);
}

std::size_t sparse_linear_backward_workspace_size(const Context& context,
                                                  const SparseLinearBackwardInputs& inputs,
                                                  const SparseLinearOptions& options) {
  return SparseLinearBackward(Call(context), inputs, options).bytes;
}

void sparse_linear_backward(const Context& context,
                            const SparseLinearBackwardInputs& inputs,
                            const SparseLinearOptions& options,
                            const LinearGradients& gradients) {
  const Call call(context);
  SparseLinearBackward problems(call, inputs, options);
  attach_outputs(problems.sparse, {.dq = gradients.dq, .dk = gradients.dk, .dv = gradients.dv});
  attach_outputs(problems.linear, gradients);
  const Workspace workspace(context.workspace, problems.bytes);
  call.backend.attention_backward(call.execution(workspace.span()), problems.sparse);
  call.backend.linear_backward(call.execution(workspace.span()), problems.linear);
}

}  // namespace saccade

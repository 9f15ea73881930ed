#include "support/attention.h"

#include <algorithm>

namespace saccade::test {
ForwardResult::ForwardResult(const Problem& problem) : out(problem.q.unwritten()) {
  const TileGrid grid = problem.shape.grid();
  lse = Tensor(problem.statistics_dtype(), {grid.batch, grid.heads, grid.q_len}, problem.layout);
  if (problem.wants_scores) {
    scores = Tensor(DType::f32, {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
  }
  if (problem.threshold) {
    marks.emplace(grid);
    std::fill_n(marks->view().words, grid.words(), ~std::uint64_t{0});
  }
}

AttentionForwardOutputs ForwardResult::outputs() const {
  return {.out = out.view(),
          .lse = lse.view(),
          .marks = marks ? marks->view() : TileMaskView{},
          .scores = scores.view()};
}

Gradients::Gradients(const Problem& problem)
    : dq(problem.q.unwritten()), dk(problem.k.unwritten()), dv(problem.v.unwritten()) {}

AttentionBackwardOutputs Gradients::outputs() const {
  return {.dq = dq.view(), .dk = dk.view(), .dv = dv.view()};
}

AttentionBackwardInputs backward_inputs(const Problem& problem, const ForwardResult& forward) {
  const AttentionInputs inputs = problem.inputs();
  return {.q = inputs.q,
          .k = inputs.k,
          .v = inputs.v,
          .tiles = inputs.tiles,
          .q_lens = inputs.q_lens,
          .k_lens = inputs.k_lens,
          .out = forward.out.view(),
          .lse = forward.lse.view(),
          .dout = problem.dout.view(),
          .dlse = problem.dlse.view()};
}

ForwardResult run_forward(const Context& context, const Problem& problem) {
  ForwardResult result(problem);
  attention_forward(context, problem.inputs(), problem.forward_options(), result.outputs());
  return result;
}

Gradients run_backward(const Context& context,
                       const Problem& problem,
                       const ForwardResult& forward) {
  Gradients gradients(problem);
  attention_backward(context, backward_inputs(problem, forward), problem.backward_options(),
                     gradients.outputs());
  return gradients;
}

ForwardResult reference_forward(const Problem& problem) {
  return run_forward({.backend = Backend::reference}, problem.in_f64());
}

Gradients reference_backward(const Problem& problem, const ForwardResult& forward) {
  ForwardResult exact = forward;
  exact.out = forward.out.converted(DType::f64);
  exact.lse = forward.lse.converted(DType::f64);
  return run_backward({.backend = Backend::reference}, problem.in_f64(), exact);
}

}  // namespace saccade::test

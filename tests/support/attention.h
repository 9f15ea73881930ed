#pragma once

#include "support/problem.h"

#include <saccade/attention.h>

#include <optional>

// Attention calls on problems, with results that own their data and lie as the problem's tensors
// do.

namespace saccade::test {

// Results start unwritten; see Tensor.
struct ForwardResult {
  explicit ForwardResult(const Problem& problem);

  AttentionForwardOutputs outputs() const;

  Tensor out, lse;
  Tensor scores;                  // if the problem wants them
  std::optional<TileMask> marks;  // if the problem has a threshold; every bit starts set
};

struct Gradients {
  explicit Gradients(const Problem& problem);

  AttentionBackwardOutputs outputs() const;

  Tensor dq, dk, dv;
};

AttentionBackwardInputs backward_inputs(const Problem& problem, const ForwardResult& forward);

ForwardResult run_forward(const Context& context, const Problem& problem);
Gradients run_backward(const Context& context,
                       const Problem& problem,
                       const ForwardResult& forward);

// The reference in double, on the same numbers.
ForwardResult reference_forward(const Problem& problem);
// `forward`: the result that the gradients refer to, of any dtype.
Gradients reference_backward(const Problem& problem, const ForwardResult& forward);

}  // namespace saccade::test

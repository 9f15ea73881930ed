#pragma once

#include "support/problem.h"

#include <saccade/linear_attention.h>

// Calls of linear attention on the tensors, lengths and tiles of a problem.

namespace saccade::test {

struct LinearCase {
  // Weights of hedgehog are identities with a little noise.
  LinearCase(Problem tensors, FeatureMap feature_map, Random& random);

  LinearInputs inputs() const;

  // The same numbers in f64, densely packed: what the reference is asked.
  LinearCase in_f64() const;
  std::string describe() const;

  Problem problem;
  LinearOptions options;
  Tensor q_weight, k_weight;  // hedgehog only
};

// Results start unwritten; see Tensor.
Tensor run_linear_forward(const Context& context, const LinearCase& call);

struct LinearGradientTensors {
  Tensor dq, dk, dv, dq_weight, dk_weight;
};

LinearGradientTensors run_linear_backward(const Context& context,
                                          const LinearCase& call,
                                          const Tensor& out);

}  // namespace saccade::test

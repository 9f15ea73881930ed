#pragma once

#include "core/attention_problem.h"

#include <saccade/linear_attention.h>

// What a backend is handed for linear attention: checked inputs, resolved defaults.

namespace saccade {

struct LinearProblem : AttentionProblem {
  FeatureMap feature_map = FeatureMap::softmax;
  double epsilon = 0;
  TensorView q_weight, k_weight;

  int features() const { return feature_map == FeatureMap::hedgehog ? 2 * head_dim : head_dim; }
};

struct LinearForwardProblem : LinearProblem {
  TensorView out;
};

struct LinearBackwardProblem : LinearProblem {
  TensorView out, dout;
  LinearGradients gradients;
  bool adds_gradients = false;
};

}  // namespace saccade

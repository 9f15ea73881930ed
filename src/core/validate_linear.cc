#include "core/require.h"
#include "core/validate.h"
#include "core/validate_inputs.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <cmath>

namespace saccade {
namespace {

void require_weight(std::string_view name,
                    const TensorView& weight,
                    const LinearProblem& problem,
                    std::int64_t heads) {
  if (problem.feature_map != FeatureMap::hedgehog) {
    if (!weight) return;
    throw InvalidArgument(fmt::format("{} is given, but the feature map {} has no weights", name,
                                      name_of(problem.feature_map)));
  }
  require_tensor(name, weight, problem.q.dtype == DType::f64 ? DType::f64 : DType::f32,
                 {heads, problem.head_dim, problem.head_dim});
  require_packed(name, weight);
}

void require_weight_gradient(std::string_view name,
                             const TensorView& gradient,
                             const TensorView& weight) {
  if (!weight) {
    if (!gradient) return;
    throw InvalidArgument(fmt::format("{} is given, but there is no such weight", name));
  }
  require_tensor(name, gradient, weight.dtype, {weight.shape[0], weight.shape[1], weight.shape[2]});
  require_packed(name, gradient);
}

template <typename Problem>
Problem validate_common(const LinearInputs& inputs, const LinearOptions& options) {
  Problem problem;
  set_inputs(problem, inputs, 128, 64);  // without tiles their size means nothing
  problem.feature_map = options.feature_map;
  name_of(options.feature_map);  // throws unless it is one
  problem.epsilon = options.epsilon;
  if (!(options.epsilon >= 0) || std::isinf(options.epsilon)) {
    throw InvalidArgument(
        fmt::format("epsilon is {}, but must be finite and at least 0", options.epsilon));
  }
  require_weight("q_weight", inputs.q_weight, problem, problem.grid.heads);
  require_weight("k_weight", inputs.k_weight, problem, problem.k_heads);
  problem.q_weight = inputs.q_weight;
  problem.k_weight = inputs.k_weight;
  return problem;
}

}  // namespace

LinearForwardProblem validate(const LinearInputs& inputs, const LinearOptions& options) {
  return validate_common<LinearForwardProblem>(inputs, options);
}

void attach_outputs(LinearForwardProblem& problem, const TensorView& out, std::string_view name) {
  require_rows(name, out, problem);
  require_distinct_elements(name, out);
  problem.out = out;
}

LinearBackwardProblem validate(const LinearBackwardInputs& inputs, const LinearOptions& options) {
  auto problem = validate_common<LinearBackwardProblem>(inputs.forward, options);
  problem.adds_gradients = options.adds_gradients;
  require_rows("out", inputs.out, problem);
  require_rows("dout", inputs.dout, problem);
  problem.out = inputs.out;
  problem.dout = inputs.dout;
  return problem;
}

void attach_outputs(LinearBackwardProblem& problem, const LinearGradients& gradients) {
  require_gradient("dq", gradients.dq, problem.q);
  require_gradient("dk", gradients.dk, problem.k);
  require_gradient("dv", gradients.dv, problem.v);
  require_weight_gradient("dq_weight", gradients.dq_weight, problem.q_weight);
  require_weight_gradient("dk_weight", gradients.dk_weight, problem.k_weight);
  problem.gradients = gradients;
}

}  // namespace saccade

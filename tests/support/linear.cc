#include "support/linear.h"

#include <cmath>
#include <string>
#include <utility>

namespace saccade::test {
namespace {

Tensor random_weight(std::int64_t heads, std::int64_t head_dim, DType dtype, Random& random) {
  Tensor weight(dtype, {heads, head_dim, head_dim});
  weight.generate([&] { return 0.3 * random.normal() / std::sqrt(static_cast<double>(head_dim)); });
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t i = 0; i < head_dim; ++i) {
      const std::int64_t index = (head * head_dim + i) * head_dim + i;
      weight.set(index, weight.get(index) + 1);
    }
  }
  return weight;
}

}  // namespace

LinearCase::LinearCase(Problem tensors, FeatureMap feature_map, Random& random)
    : problem(std::move(tensors)), options{.feature_map = feature_map} {
  if (feature_map != FeatureMap::hedgehog) return;
  const ProblemShape& shape = problem.shape;
  q_weight = random_weight(shape.q_heads, shape.head_dim, problem.statistics_dtype(), random);
  k_weight = random_weight(shape.k_heads, shape.head_dim, problem.statistics_dtype(), random);
}

LinearInputs LinearCase::inputs() const {
  return {.q = problem.q.view(),
          .k = problem.k.view(),
          .v = problem.v.view(),
          .tiles = problem.tiles ? problem.tiles->view() : TileMaskView{},
          .q_lens = problem.q_lens.view(),
          .k_lens = problem.k_lens.view(),
          .q_weight = q_weight.view(),
          .k_weight = k_weight.view()};
}

LinearCase LinearCase::in_f64() const {
  LinearCase call = *this;
  call.problem = problem.in_f64();
  if (q_weight) {
    call.q_weight = q_weight.converted(DType::f64);
    call.k_weight = k_weight.converted(DType::f64);
  }
  return call;
}

std::string LinearCase::describe() const {
  return std::string(name_of(options.feature_map)) + ", epsilon " +
         std::to_string(options.epsilon) + ", " + problem.describe();
}

Tensor run_linear_forward(const Context& context, const LinearCase& call) {
  Tensor out = call.problem.q.unwritten();
  linear_forward(context, call.inputs(), call.options, out.view());
  return out;
}

LinearGradientTensors run_linear_backward(const Context& context,
                                          const LinearCase& call,
                                          const Tensor& out) {
  LinearGradientTensors gradients{.dq = call.problem.q.unwritten(),
                                  .dk = call.problem.k.unwritten(),
                                  .dv = call.problem.v.unwritten()};
  if (call.q_weight) {
    gradients.dq_weight = call.q_weight.unwritten();
    gradients.dk_weight = call.k_weight.unwritten();
  }
  linear_backward(context,
                  {.forward = call.inputs(), .out = out.view(), .dout = call.problem.dout.view()},
                  call.options,
                  {.dq = gradients.dq.view(),
                   .dk = gradients.dk.view(),
                   .dv = gradients.dv.view(),
                   .dq_weight = gradients.dq_weight.view(),
                   .dk_weight = gradients.dk_weight.view()});
  return gradients;
}

}  // namespace saccade::test

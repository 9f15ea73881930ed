#include "support/derivative.h"
#include "support/expect_error.h"
#include "support/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace saccade::test {
namespace {

const Context kReference{.backend = Backend::reference};

constexpr FeatureMap kMaps[] = {FeatureMap::softmax, FeatureMap::elu_plus_one, FeatureMap::relu,
                                FeatureMap::hedgehog};

double loss(const LinearCase& call) {
  const Tensor out = run_linear_forward(kReference, call);
  double sum = 0;
  for (std::int64_t i = 0; i < out.element_count(); ++i) {
    if (!std::isnan(call.problem.dout.get(i))) sum += out.get(i) * call.problem.dout.get(i);
  }
  return sum;
}

// relu has a kink at 0.
void away_from_zero(Tensor& tensor) {
  for (std::int64_t i = 0; i < tensor.element_count(); ++i) {
    const double value = tensor.get(i);
    if (std::abs(value) < 0.01) tensor.set(i, value < 0 ? -0.01 : 0.01);
  }
}

LinearCase make_case(const ProblemShape& shape, FeatureMap map, Random& random) {
  LinearCase call(Problem(shape, DType::f64, random), map, random);
  away_from_zero(call.problem.q);
  away_from_zero(call.problem.k);
  return call;
}

// Checks every `stride`-th element of the gradients; NaN elements are padding, whose gradient is 0.
void expect_derivatives(LinearCase call, std::int64_t stride) {
  SCOPED_TRACE(call.describe());
  const Tensor out = run_linear_forward(kReference, call);
  const LinearGradientTensors gradients = run_linear_backward(kReference, call, out);
  const auto check = [&](const char* name, Tensor& tensor, const Tensor& gradient) {
    ASSERT_EQ(tensor.element_count(), gradient.element_count()) << name;
    for (std::int64_t i = 0; i < tensor.element_count(); i += stride) {
      const double value = tensor.get(i);
      const double want = std::isnan(value) ? 0 : derivative_at_zero([&](double step) {
        tensor.set(i, value + step);
        return loss(call);
      });
      tensor.set(i, value);
      ASSERT_NEAR(gradient.get(i), want, kDerivativeTolerance) << name << " element " << i;
    }
  };
  check("dq", call.problem.q, gradients.dq);
  check("dk", call.problem.k, gradients.dk);
  check("dv", call.problem.v, gradients.dv);
  if (!call.q_weight) return;
  check("dq_weight", call.q_weight, gradients.dq_weight);
  check("dk_weight", call.k_weight, gradients.dk_weight);
}

TEST(ReferenceLinearTest, OutIsTheWeightedMeanOfTheValues) {
  Random random(1);
  LinearCase call = make_case({.q_len = 1, .k_len = 2, .head_dim = 2}, FeatureMap::relu, random);
  const auto fill = [](Tensor& tensor, const std::vector<double>& values) {
    for (std::size_t i = 0; i < values.size(); ++i)
      tensor.set(static_cast<std::int64_t>(i), values[i]);
  };
  fill(call.problem.q, {2, 3});
  fill(call.problem.k, {1, -5, 1, 2});  // products with phi(q): 2 and 8
  fill(call.problem.v, {10, 0, 0, 20});
  Tensor out = run_linear_forward(kReference, call);
  EXPECT_DOUBLE_EQ(out.get(0), 2);   // 0.2 * 10
  EXPECT_DOUBLE_EQ(out.get(1), 16);  // 0.8 * 20
  call.options.epsilon = 10;
  out = run_linear_forward(kReference, call);
  EXPECT_DOUBLE_EQ(out.get(0), 1);
  EXPECT_DOUBLE_EQ(out.get(1), 8);

  call.options = {.feature_map = FeatureMap::elu_plus_one};
  fill(call.problem.q, {0, -1});
  fill(call.problem.k, {1, 0, -2, 3});
  const double e = std::exp(-1.0);
  const double first = 1 * 2 + e * 1;
  const double second = 1 * std::exp(-2.0) + e * 4;
  out = run_linear_forward(kReference, call);
  EXPECT_NEAR(out.get(0), 10 * first / (first + second), 1e-14);

  call.options.feature_map = FeatureMap::softmax;
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  const double q0 = sigmoid(1);  // of 0 and -1
  const auto product = [&](double k0) { return q0 * k0 + (1 - q0) * (1 - k0); };
  const double weight = product(sigmoid(1)) / (product(sigmoid(1)) + product(sigmoid(-5)));
  out = run_linear_forward(kReference, call);
  EXPECT_NEAR(out.get(0), 10 * weight, 1e-14);
}

// With W the identity, hedgehog is a softmax over x and -x.
TEST(ReferenceLinearTest, HedgehogIsASoftmaxOverBothSigns) {
  Random random(2);
  LinearCase call =
      make_case({.q_len = 3, .k_len = 4, .head_dim = 2}, FeatureMap::hedgehog, random);
  for (Tensor* weight : {&call.q_weight, &call.k_weight}) {
    for (std::int64_t i = 0; i < 4; ++i) weight->set(i, i % 3 == 0);
  }
  const auto features = [](const Tensor& x, std::int64_t token) {
    std::vector<double> logits = {x.get(2 * token), x.get(2 * token + 1)};
    logits.push_back(-logits[0]);
    logits.push_back(-logits[1]);
    double sum = 0;
    for (double& logit : logits) sum += logit = std::exp(logit);
    for (double& logit : logits) logit /= sum;
    return logits;
  };
  const Tensor out = run_linear_forward(kReference, call);
  for (std::int64_t query = 0; query < 3; ++query) {
    const std::vector<double> q = features(call.problem.q, query);
    double sum = 0;
    double value = 0;
    for (std::int64_t key = 0; key < 4; ++key) {
      const std::vector<double> k = features(call.problem.k, key);
      double weight = 0;
      for (int i = 0; i < 4; ++i) weight += q[i] * k[i];
      sum += weight;
      value += weight * call.problem.v.get(2 * key);
    }
    EXPECT_NEAR(out.get(2 * query), value / sum, 1e-14);
  }
}

TEST(ReferenceLinearTest, GradientsAreDerivativesOfADenseCall) {
  Random random(3);
  for (const FeatureMap map : kMaps) {
    LinearCase call =
        make_case({.batch = 2, .q_heads = 2, .k_heads = 2, .q_len = 5, .k_len = 7, .head_dim = 3},
                  map, random);
    expect_derivatives(call, 1);
    call.options.epsilon = 0.3;
    expect_derivatives(call, 1);
  }
}

TEST(ReferenceLinearTest, GradientsAreDerivativesOfAMaskedAndPaddedCall) {
  Random random(4);
  for (const FeatureMap map : kMaps) {
    const ProblemShape shape{.batch = 2,
                             .q_heads = 4,
                             .k_heads = 2,
                             .q_len = 130,
                             .k_len = 200,
                             .head_dim = 2,
                             .block_q = 64,
                             .block_k = 64};
    LinearCase call = make_case(shape, map, random);
    call.problem.tiles = random_mask(shape.grid(), 0.6, random);
    call.problem.tiles->set_ranges(1, {});
    call.problem.set_lengths({130, 70}, {150, 200});
    expect_derivatives(call, 61);
  }
}

TEST(ReferenceLinearTest, RowsWithoutWeightAreZeroAndHaveNoGradient) {
  Random random(5);
  const ProblemShape shape{.q_len = 100, .k_len = 70, .head_dim = 4, .block_q = 64, .block_k = 64};
  LinearCase call = make_case(shape, FeatureMap::relu, random);
  call.problem.tiles = TileMask(shape.grid());
  call.problem.tiles->set(0, 0, 0, 1);  // keys 64 to 69 for queries 0 to 63
  for (std::int64_t d = 0; d < 4; ++d) call.problem.q.set(d, -1);  // query 0 has no features
  const Tensor out = run_linear_forward(kReference, call);
  const LinearGradientTensors gradients = run_linear_backward(kReference, call, out);
  for (std::int64_t query = 0; query < 100; ++query) {
    for (std::int64_t d = 0; d < 4; ++d) {
      if (query > 0 && query < 64) continue;
      EXPECT_EQ(out.get(4 * query + d), 0);
      EXPECT_EQ(gradients.dq.get(4 * query + d), 0);
    }
  }
  for (std::int64_t key = 0; key < 64; ++key) EXPECT_EQ(gradients.dv.get(4 * key), 0);
  EXPECT_NE(gradients.dv.get(4 * 65), 0);
}

// Mistakes

struct LinearForwardCall {
  void run(const Context& context) const { linear_forward(context, inputs, call.options, view); }
  bool is_untouched() const { return out.is_unwritten(); }

  static LinearCase legal() {
    Random random(6);
    const ProblemShape shape{.batch = 2, .q_heads = 2, .k_heads = 1, .q_len = 70, .k_len = 100};
    LinearCase call(Problem(shape, DType::f32, random), FeatureMap::hedgehog, random);
    call.problem.tiles = TileMask::full(shape.grid());
    return call;
  }

  LinearCase call = legal();
  LinearInputs inputs = call.inputs();
  Tensor out = call.problem.q.unwritten();
  TensorView view = out.view();
};

TEST(LinearMistakes, OfTheForwardCall) {
  expect_mistakes<LinearForwardCall>({
      {[](auto& c) { c.inputs.k.shape[3] = 32; },
       {"k has shape [2, 1, 100, 32]", "[2, 1, 100, 16]"}},
      {[](auto& c) { c.inputs.q.strides[3] = 2; }, {"q has stride 2"}},
      {[](auto& c) { c.inputs.tiles.grid.q_len = 60; }, {"tiles belongs to another grid"}},
      {[](auto& c) {
         c.inputs.v.device = {DeviceType::cuda, 1};
       },
       {"v lies on cuda:1"}},
      {[](auto& c) { c.call.options.epsilon = -1; }, {"epsilon is -1", "at least 0"}},
      {[](auto& c) { c.call.options.epsilon = std::numeric_limits<double>::infinity(); },
       {"epsilon is inf", "finite"}},
      {[](auto& c) { c.call.options.epsilon = NAN; }, {"epsilon is nan"}},
      {[](auto& c) { c.call.options.feature_map = FeatureMap::relu; },
       {"q_weight is given", "relu has no weights"}},
      {[](auto& c) { c.call.options.feature_map = static_cast<FeatureMap>(9); },
       {"feature_map is 9", "saccade::FeatureMap"}},
      {[](auto& c) { c.inputs.q_weight = {}; }, {"q_weight is missing"}},
      {[](auto& c) { c.inputs.k_weight.shape[0] = 2; },
       {"k_weight has shape [2, 16, 16]", "[1, 16, 16]"}},
      {[](auto& c) { c.inputs.k_weight.strides[1] = 17; }, {"k_weight has stride 17", "densely"}},
      {[](auto& c) { c.view = {}; }, {"out is missing"}},
      {[](auto& c) { c.view.strides[1] = 0; }, {"out is written", "stride 0"}},
  });
}

struct LinearBackwardCall {
  void run(const Context& context) const { linear_backward(context, inputs, call.options, views); }
  bool is_untouched() const {
    for (const Tensor* tensor : {&dq, &dk, &dv, &dq_weight, &dk_weight}) {
      if (!tensor->is_unwritten()) return false;
    }
    return true;
  }

  LinearCase call = LinearForwardCall::legal();
  Tensor out = run_linear_forward(kReference, call);
  LinearBackwardInputs inputs{
      .forward = call.inputs(), .out = out.view(), .dout = call.problem.dout.view()};
  Tensor dq = call.problem.q.unwritten();
  Tensor dk = call.problem.k.unwritten();
  Tensor dv = call.problem.v.unwritten();
  Tensor dq_weight = call.q_weight.unwritten();
  Tensor dk_weight = call.k_weight.unwritten();
  LinearGradients views{.dq = dq.view(),
                        .dk = dk.view(),
                        .dv = dv.view(),
                        .dq_weight = dq_weight.view(),
                        .dk_weight = dk_weight.view()};
};

TEST(LinearMistakes, OfTheBackwardCall) {
  expect_mistakes<LinearBackwardCall>({
      {[](auto& c) { c.inputs.out = {}; }, {"out is missing"}},
      {[](auto& c) { c.inputs.dout.dtype = DType::f16; }, {"dout has dtype f16", "needs f32"}},
      {[](auto& c) { c.views.dq = {}; }, {"dq is missing"}},
      {[](auto& c) { c.views.dk.shape[2] = 99; }, {"dk has shape [2, 1, 99, 16]"}},
      {[](auto& c) { c.views.dv.strides[0] = 0; }, {"dv is written", "stride 0"}},
      {[](auto& c) { c.views.dq_weight = {}; }, {"dq_weight is missing"}},
      {[](auto& c) { c.views.dk_weight.strides[2] = 2; }, {"dk_weight has stride 2"}},
      {[](auto& c) {
         c.inputs.forward.q_weight = c.inputs.forward.k_weight = {};
         c.call.options.feature_map = FeatureMap::softmax;
       },
       {"dq_weight is given", "no such weight"}},
  });
}

}  // namespace
}  // namespace saccade::test

#include "support/attention.h"
#include "support/comparison.h"
#include "support/expect_error.h"
#include "support/linear.h"

#include <saccade/sparse_linear.h>

#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace saccade::test {
namespace {

// A call of both branches: the critical tiles are those of `linear.problem`'s complement.
struct SparseLinearCase {
  SparseLinearCase(const ProblemShape& shape, DType dtype, FeatureMap map, Random& random)
      : linear(Problem(shape, dtype, random), map, random),
        dlinear_out(Tensor(linear.problem.dout).generate([&] { return random.normal(); })) {
    linear.problem.tiles = random_mask(shape.grid(), 0.6, random);
    sparse = linear.problem;
    sparse.tiles = ~*linear.problem.tiles;
  }

  SparseLinearInputs inputs() const {
    const LinearInputs branch = linear.inputs();
    return {.q = branch.q,
            .k = branch.k,
            .v = branch.v,
            .critical = sparse.tiles->view(),
            .marginal = branch.tiles,
            .q_lens = branch.q_lens,
            .k_lens = branch.k_lens,
            .q_weight = branch.q_weight,
            .k_weight = branch.k_weight};
  }
  SparseLinearOptions options() const { return {.scale = sparse.scale, .linear = linear.options}; }

  LinearCase linear;
  Tensor dlinear_out;
  Problem sparse = linear.problem;
};

const ProblemShape kShape{.batch = 2,
                          .q_heads = 4,
                          .k_heads = 2,
                          .q_len = 300,
                          .k_len = 500,
                          .head_dim = 32,
                          .block_q = 64,
                          .block_k = 64};

class SparseLinearTest : public testing::TestWithParam<Backend> {
 protected:
  const Context context_{.backend = GetParam()};
  Random random_{1};
};

INSTANTIATE_TEST_SUITE_P(Backends,
                         SparseLinearTest,
                         testing::Values(Backend::reference, Backend::cpu),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST_P(SparseLinearTest, ForwardIsWhatBothBranchesGive) {
  for (const FeatureMap map : {FeatureMap::softmax, FeatureMap::hedgehog}) {
    SparseLinearCase call(kShape, DType::f32, map, random_);
    call.sparse.scale = 0.4;
    const ForwardResult sparse = run_forward(context_, call.sparse);
    const Tensor linear = run_linear_forward(context_, call.linear);
    ForwardResult got(call.sparse);
    const Tensor linear_out = linear.unwritten();
    sparse_linear_forward(
        context_, call.inputs(), call.options(),
        {.out = got.out.view(), .lse = got.lse.view(), .linear_out = linear_out.view()});
    EXPECT_TRUE(is_same(got.out, sparse.out));
    EXPECT_TRUE(is_same(got.lse, sparse.lse));
    EXPECT_TRUE(is_same(linear_out, linear));
  }
}

// The sum of two gradients, rounded once more.
Tensor sum_of(const Tensor& a, const Tensor& b) {
  Tensor sum = a;
  for (std::int64_t i = 0; i < sum.element_count(); ++i) sum.set(i, a.get(i) + b.get(i));
  return sum;
}

TEST_P(SparseLinearTest, BackwardIsTheSumOfBothBranches) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const FeatureMap map : {FeatureMap::softmax, FeatureMap::hedgehog}) {
      SparseLinearCase call(kShape, dtype, map, random_);
      const ForwardResult forward = run_forward(context_, call.sparse);
      const Tensor linear_out = run_linear_forward(context_, call.linear);
      const Gradients sparse = run_backward(context_, call.sparse, forward);
      LinearCase linear = call.linear;
      linear.problem.dout = call.dlinear_out;
      const LinearGradientTensors other = run_linear_backward(context_, linear, linear_out);

      LinearGradientTensors got{
          .dq = sparse.dq.unwritten(),
          .dk = sparse.dk.unwritten(),
          .dv = sparse.dv.unwritten(),
          .dq_weight = other.dq_weight ? other.dq_weight.unwritten() : Tensor(),
          .dk_weight = other.dk_weight ? other.dk_weight.unwritten() : Tensor()};
      sparse_linear_backward(context_,
                             {.forward = call.inputs(),
                              .out = forward.out.view(),
                              .lse = forward.lse.view(),
                              .linear_out = linear_out.view(),
                              .dout = call.sparse.dout.view(),
                              .dlse = call.sparse.dlse.view(),
                              .dlinear_out = call.dlinear_out.view()},
                             call.options(),
                             {.dq = got.dq.view(),
                              .dk = got.dk.view(),
                              .dv = got.dv.view(),
                              .dq_weight = got.dq_weight.view(),
                              .dk_weight = got.dk_weight.view()});
      const double tolerance = gradient_tolerance(dtype, 0);
      EXPECT_TRUE(is_close(got.dq, sum_of(sparse.dq, other.dq), tolerance));
      EXPECT_TRUE(is_close(got.dk, sum_of(sparse.dk, other.dk), tolerance));
      EXPECT_TRUE(is_close(got.dv, sum_of(sparse.dv, other.dv), tolerance));
      if (map != FeatureMap::hedgehog) continue;
      EXPECT_TRUE(is_same(got.dq_weight, other.dq_weight));
      EXPECT_TRUE(is_same(got.dk_weight, other.dk_weight));
    }
  }
}

// Mistakes in either branch, found before the other has written anything.

struct ForwardCall {
  void run(const Context& context) const {
    sparse_linear_forward(context, inputs, call.options(), outputs);
  }
  bool is_untouched() const { return out.is_unwritten() && linear_out.is_unwritten(); }

  static SparseLinearCase legal() {
    Random random(2);
    return {{.q_len = 100, .k_len = 100}, DType::f32, FeatureMap::softmax, random};
  }

  SparseLinearCase call = legal();
  SparseLinearInputs inputs = call.inputs();
  Tensor out = call.sparse.q.unwritten();
  Tensor linear_out = out;
  SparseLinearOutputs outputs{.out = out.view(), .linear_out = linear_out.view()};
};

TEST(SparseLinearMistakes, OfTheForwardCall) {
  expect_mistakes<ForwardCall>({
      {[](auto& c) { c.inputs.critical.grid.k_len = 90; }, {"tiles belongs to another grid"}},
      {[](auto& c) { c.inputs.marginal.grid.k_len = 90; }, {"tiles belongs to another grid"}},
      {[](auto& c) { c.call.linear.options.epsilon = -1; }, {"epsilon is -1"}},
      {[](auto& c) { c.outputs.out = {}; }, {"out is missing"}},
      {[](auto& c) { c.outputs.linear_out = {}; }, {"linear_out is missing"}},
      {[](auto& c) { c.outputs.linear_out.shape[2] = 99; }, {"linear_out has shape"}},
  });
}

struct BackwardCall {
  void run(const Context& context) const {
    sparse_linear_backward(context, inputs, call.options(), gradients);
  }
  bool is_untouched() const { return dq.is_unwritten() && dk.is_unwritten() && dv.is_unwritten(); }

  SparseLinearCase call = ForwardCall::legal();
  ForwardResult forward = run_forward({.backend = Backend::reference}, call.sparse);
  Tensor linear_out = run_linear_forward({.backend = Backend::reference}, call.linear);
  SparseLinearBackwardInputs inputs{.forward = call.inputs(),
                                    .out = forward.out.view(),
                                    .lse = forward.lse.view(),
                                    .linear_out = linear_out.view(),
                                    .dout = call.sparse.dout.view(),
                                    .dlinear_out = call.dlinear_out.view()};
  Tensor dq = call.sparse.q.unwritten();
  Tensor dk = call.sparse.k.unwritten();
  Tensor dv = call.sparse.v.unwritten();
  LinearGradients gradients{.dq = dq.view(), .dk = dk.view(), .dv = dv.view()};
};

TEST(SparseLinearMistakes, OfTheBackwardCall) {
  expect_mistakes<BackwardCall>({
      {[](auto& c) { c.inputs.out = {}; }, {"out is missing"}},
      {[](auto& c) { c.inputs.linear_out = {}; }, {"linear_out is missing"}},
      {[](auto& c) { c.inputs.dlinear_out.dtype = DType::f16; }, {"dlinear_out has dtype f16"}},
      {[](auto& c) { c.gradients.dv = {}; }, {"dv is missing"}},
      {[](auto& c) { c.gradients.dq_weight = c.gradients.dq; }, {"dq_weight is given"}},
  });
}

}  // namespace
}  // namespace saccade::test

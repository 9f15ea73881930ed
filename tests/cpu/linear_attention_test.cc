#include "support/comparison.h"
#include "support/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace saccade::test {
namespace {

const Context kCpu{.backend = Backend::cpu};
const Context kReference{.backend = Backend::reference};

constexpr FeatureMap kMaps[] = {FeatureMap::softmax, FeatureMap::elu_plus_one, FeatureMap::relu,
                                FeatureMap::hedgehog};

// What dq and dk are before delta, and the mean of softmax, are subtracted.
LinearGradientTensors gradients_before_cancellation(const LinearCase& call, const Tensor& out) {
  const Tensor zero = Tensor(out).generate([] { return 0.0; });
  return run_linear_backward(kReference, call, zero);
}

// [heads, head_dim, head_dim] -> [1, heads, head_dim, head_dim]: comparisons look at whole
// matrices.
Tensor by_head(const Tensor& weight) {
  Tensor tensor(weight.dtype(), {1, weight.extent(0), weight.extent(1), weight.extent(2)});
  std::int64_t i = 0;
  return tensor.generate([&] { return weight.get(i++); });
}

void expect_close_to_reference(const LinearCase& call) {
  SCOPED_TRACE(call.describe());
  const DType dtype = call.problem.q.dtype();
  const LinearCase exact = call.in_f64();
  const Tensor out = run_linear_forward(kCpu, call);
  EXPECT_TRUE(is_close(out, run_linear_forward(kReference, exact), forward_tolerance(dtype, 0)));
  EXPECT_TRUE(out.gaps_are_untouched());

  const LinearGradientTensors got = run_linear_backward(kCpu, call, out);
  const Tensor used_out = out.converted(DType::f64);
  const LinearGradientTensors want = run_linear_backward(kReference, exact, used_out);
  const LinearGradientTensors terms = gradients_before_cancellation(exact, used_out);
  const double tolerance = gradient_tolerance(dtype, 0);
  EXPECT_TRUE(is_close_beside(got.dq, want.dq, terms.dq, tolerance)) << "dq";
  EXPECT_TRUE(is_close_beside(got.dk, want.dk, terms.dk, tolerance)) << "dk";
  EXPECT_TRUE(is_close(got.dv, want.dv, tolerance)) << "dv";
  for (const Tensor* tensor : {&got.dq, &got.dk, &got.dv}) {
    EXPECT_TRUE(tensor->gaps_are_untouched());
  }
  if (!call.q_weight) return;
  const double weight_tolerance = gradient_tolerance(DType::f32, 0);
  EXPECT_TRUE(is_close_beside(by_head(got.dq_weight), by_head(want.dq_weight),
                              by_head(terms.dq_weight), weight_tolerance))
      << "dq_weight";
  EXPECT_TRUE(is_close_beside(by_head(got.dk_weight), by_head(want.dk_weight),
                              by_head(terms.dk_weight), weight_tolerance))
      << "dk_weight";
}

// Larger elements saturate a softmax over features: all but nothing is left of its gradient, and
// errors relative to that mean nothing.
void limit_elements(Tensor& tensor, double largest) {
  double found = 0;
  for (const double value : tensor.values()) {
    if (std::isfinite(value)) found = std::max(found, std::abs(value));
  }
  if (found <= largest) return;
  for (std::int64_t i = 0; i < tensor.element_count(); ++i) {
    tensor.set(i, tensor.get(i) * largest / found);
  }
}

TEST(CpuLinearTest, AgreesWithTheReferenceOnHostileProblems) {
  for (std::uint64_t seed = 0; seed < 120; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    LinearCase call(hostile_problem(seed), kMaps[seed % 4], random);
    call.options.epsilon = random.pick({0.0, 1e-5, 1.0});
    limit_elements(call.problem.q, 4);
    limit_elements(call.problem.k, 4);
    expect_close_to_reference(call);
    if (HasFailure()) break;
  }
}

TEST(CpuLinearTest, EveryHeadDimension) {
  Random random(1);
  for (const FeatureMap map : kMaps) {
    for (std::int64_t head_dim = 16; head_dim <= 256; head_dim += 48) {
      const Problem problem({.q_len = 37, .k_len = 75, .head_dim = head_dim}, DType::f32, random);
      expect_close_to_reference(LinearCase(problem, map, random));
    }
  }
}

TEST(CpuLinearTest, SaturatedFeatures) {
  Random random(5);
  for (const FeatureMap map : {FeatureMap::softmax, FeatureMap::hedgehog}) {
    LinearCase call(Problem({.q_len = 100, .k_len = 200, .head_dim = 32}, DType::f32, random), map,
                    random);
    for (Tensor* tensor : {&call.problem.q, &call.problem.k}) {
      tensor->generate([&] { return 100 * random.normal(); });
    }
    const Tensor out = run_linear_forward(kCpu, call);
    const LinearCase exact = call.in_f64();
    const Tensor used_out = out.converted(DType::f64);
    const LinearGradientTensors got = run_linear_backward(kCpu, call, out);
    const LinearGradientTensors want = run_linear_backward(kReference, exact, used_out);
    // Of logits of size 400, whose rounding is the relative error of the features.
    const double tolerance = forward_tolerance(DType::f32, 400);
    EXPECT_TRUE(is_close(out, run_linear_forward(kReference, exact), tolerance));
    EXPECT_TRUE(is_close(got.dv, want.dv, 2 * tolerance));
    // dq and dk are differences of terms of size |dout v|, about 10.
    EXPECT_TRUE(is_within(got.dq, want.dq, 10 * 2 * tolerance));
    EXPECT_TRUE(is_within(got.dk, want.dk, 10 * 2 * tolerance));
  }
}

// Where every query meets every key, blocks are longer than the tokens that are mapped at a time.
TEST(CpuLinearTest, LongDenseRows) {
  Random random(2);
  for (const FeatureMap map : kMaps) {
    const Problem problem({.q_len = 1100, .k_len = 2200}, DType::f32, random);
    expect_close_to_reference(LinearCase(problem, map, random));
  }
}

// More blocks than one product makes totals for, on both sides.
TEST(CpuLinearTest, ManyTiles) {
  Random random(3);
  const ProblemShape shape{
      .q_heads = 2, .k_heads = 1, .q_len = 1700, .k_len = 4500, .block_q = 64, .block_k = 64};
  for (const double share : {0.05, 0.5, 0.95}) {
    LinearCase call(Problem(shape, DType::f32, random), FeatureMap::softmax, random);
    call.problem.tiles = random_mask(shape.grid(), share, random);
    expect_close_to_reference(call);
  }
}

// A tile that is not active is not touched, whatever it holds.
TEST(CpuLinearTest, SpecialValuesStayInTheirTiles) {
  Random random(4);
  const ProblemShape shape{.q_len = 300, .k_len = 500, .block_q = 64, .block_k = 64};
  for (const double special : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    LinearCase call(Problem(shape, DType::f32, random), FeatureMap::softmax, random);
    call.problem.v.set(call.problem.v.index(0, 0, 130, 3), special);  // key tile 2
    call.problem.tiles = random_mask(shape.grid(), 0.7, random);
    for (std::int64_t q_tile = 0; q_tile < 5; ++q_tile) {
      call.problem.tiles->set(0, 0, q_tile, 2, q_tile == 1);
    }
    const Tensor out = run_linear_forward(kCpu, call);
    const Tensor want = run_linear_forward(kReference, call.in_f64());
    EXPECT_TRUE(is_close(out, want, forward_tolerance(DType::f32, 0)));
    EXPECT_FALSE(std::isfinite(out.get(out.index(0, 0, 64, 3))));
    EXPECT_TRUE(std::isfinite(out.get(out.index(0, 0, 0, 3))));
  }
}

TEST(CpuLinearTest, RowsWithoutWeightAreZeroBesideNan) {
  Random random(6);
  LinearCase call(Problem({.q_len = 40, .k_len = 30}, DType::f32, random), FeatureMap::relu,
                  random);
  for (std::int64_t d = 0; d < 16; ++d) call.problem.q.set(call.problem.q.index(0, 0, 7, d), -1);
  call.problem.v.set(5, std::nan(""));
  const Tensor out = run_linear_forward(kCpu, call);
  const Tensor want = run_linear_forward(kReference, call.in_f64());
  EXPECT_TRUE(is_close(out, want, forward_tolerance(DType::f32, 0)));
  EXPECT_EQ(out.get(out.index(0, 0, 7, 5)), 0);
  EXPECT_TRUE(std::isnan(out.get(out.index(0, 0, 8, 5))));
}

// Nor do they contribute to the gradients of keys and values.
TEST(CpuLinearTest, RowsWithoutWeightAreForgottenWhateverTheirGradient) {
  Random random(8);
  LinearCase call(Problem({.q_len = 40, .k_len = 30}, DType::f32, random), FeatureMap::relu,
                  random);
  for (std::int64_t d = 0; d < 16; ++d) call.problem.q.set(call.problem.q.index(0, 0, 7, d), -1);
  call.problem.dout.set(call.problem.dout.index(0, 0, 7, 3), std::nan(""));
  expect_close_to_reference(call);
  const LinearGradientTensors got = run_linear_backward(kCpu, call, run_linear_forward(kCpu, call));
  for (const double value : got.dk.values()) EXPECT_TRUE(std::isfinite(value));
}

TEST(CpuLinearTest, RowsThatMeetNothingAreZeroWhateverTheyHold) {
  Random random(7);
  const ProblemShape shape{.q_len = 200, .k_len = 200, .block_q = 64, .block_k = 64};
  for (const FeatureMap map : kMaps) {
    LinearCase call(Problem(shape, DType::f32, random), map, random);
    call.problem.tiles = TileMask::full(shape.grid());
    for (std::int64_t tile = 0; tile < 4; ++tile) {
      call.problem.tiles->set(0, 0, 1, tile, false);
      call.problem.tiles->set(0, 0, tile, 2, false);
    }
    call.problem.q.set(call.problem.q.index(0, 0, 70, 3), std::nan(""));
    call.problem.dout.set(call.problem.dout.index(0, 0, 71, 3), std::nan(""));
    call.problem.k.set(call.problem.k.index(0, 0, 130, 3), std::nan(""));
    call.problem.v.set(call.problem.v.index(0, 0, 131, 3), std::nan(""));
    expect_close_to_reference(call);
    EXPECT_EQ(run_linear_forward(kCpu, call).get(call.problem.q.index(0, 0, 70, 3)), 0);
  }
}

TEST(CpuLinearTest, TheNumberOfThreadsDoesNotMatter) {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    Random random(seed);
    LinearCase call(hostile_problem(seed), kMaps[seed % 4], random);
    ThreadPool one(1), three(3);
    const Context alone{.executor = &one, .backend = Backend::cpu};
    const Context together{.executor = &three, .backend = Backend::cpu};
    const Tensor out = run_linear_forward(alone, call);
    EXPECT_TRUE(is_same(run_linear_forward(together, call), out));
    const LinearGradientTensors a = run_linear_backward(alone, call, out);
    const LinearGradientTensors b = run_linear_backward(together, call, out);
    EXPECT_TRUE(is_same(b.dq, a.dq));
    EXPECT_TRUE(is_same(b.dk, a.dk));
    EXPECT_TRUE(is_same(b.dv, a.dv));
    if (!call.q_weight) continue;
    EXPECT_TRUE(is_same(b.dq_weight, a.dq_weight));
    EXPECT_TRUE(is_same(b.dk_weight, a.dk_weight));
  }
}

}  // namespace
}  // namespace saccade::test

#include "support/attention.h"
#include "support/comparison.h"
#include "support/derivative.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const Context kReference{.backend = Backend::reference};

// A scalar function of q, k and v whose gradients in out and lse are dout and dlse.
double loss(const Problem& problem) {
  const ForwardResult result = run_forward(kReference, problem);
  const ProblemShape& shape = problem.shape;
  double sum = 0;
  for (std::int64_t row = 0; row < result.lse.element_count(); ++row) {
    if (result.lse.get(row) == -kInfinity) continue;
    sum += result.lse.get(row) * problem.dlse.get(row);
    for (std::int64_t i = row * shape.head_dim; i < (row + 1) * shape.head_dim; ++i) {
      sum += result.out.get(i) * problem.dout.get(i);
    }
  }
  return sum;
}

// Checks every `stride`-th element of the gradients; NaN elements are padding, whose gradient is 0.
void expect_derivatives(Problem problem, std::int64_t stride) {
  SCOPED_TRACE(problem.describe());
  const Gradients gradients = run_backward(kReference, problem, run_forward(kReference, problem));
  const auto check = [&](const char* name, Tensor& tensor, const Tensor& gradient) {
    for (std::int64_t i = 0; i < tensor.element_count(); i += stride) {
      const double value = tensor.get(i);
      const double want = std::isnan(value) ? 0 : derivative_at_zero([&](double step) {
        tensor.set(i, value + step);
        return loss(problem);
      });
      tensor.set(i, value);
      ASSERT_NEAR(gradient.get(i), want, kDerivativeTolerance) << name << " element " << i;
    }
  };
  check("dq", problem.q, gradients.dq);
  check("dk", problem.k, gradients.dk);
  check("dv", problem.v, gradients.dv);
}

TEST(ReferenceBackwardTest, IsTheDerivativeOfADenseCall) {
  Random random(1);
  Problem problem({.batch = 2, .q_heads = 2, .k_heads = 2, .q_len = 5, .k_len = 7, .head_dim = 3},
                  DType::f64, random);
  for (const double scale : {0.6, -0.6, 0.0}) {
    problem.scale = scale;
    expect_derivatives(problem, 1);
  }
}

TEST(ReferenceBackwardTest, SumsOverTheQueriesThatShareAKey) {
  Random random(2);
  expect_derivatives(Problem({.q_heads = 6, .k_heads = 2, .q_len = 3, .k_len = 4, .head_dim = 2},
                             DType::f64, random, Layout::bshd),
                     1);
}

TEST(ReferenceBackwardTest, IsTheDerivativeOfAMaskedAndPaddedCall) {
  Random random(3);
  const ProblemShape shape{.batch = 2,
                           .q_heads = 2,
                           .q_len = 130,
                           .k_len = 200,
                           .head_dim = 2,
                           .block_q = 64,
                           .block_k = 64};
  Problem problem(shape, DType::f64, random, Layout::padded);
  problem.tiles = random_mask(shape.grid(), 0.6, random);
  problem.tiles->set_ranges(1, {});
  problem.set_lengths({130, 70}, {150, 200});
  expect_derivatives(problem, 29);
}

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.element_count(); ++i) sum += a.get(i) * b.get(i);
  return sum;
}

void move(Tensor& tensor, const Tensor& direction, double step) {
  for (std::int64_t i = 0; i < tensor.element_count(); ++i) {
    tensor.set(i, tensor.get(i) + step * direction.get(i));
  }
}

// The derivative along a random direction of q, k and v at once sees every element.
TEST(ReferenceBackwardTest, IsTheDerivativeAlongADirection) {
  Random random(4);
  for (int repeat = 0; repeat < 4; ++repeat) {
    const ProblemShape shape{.batch = 2,
                             .q_heads = 4,
                             .k_heads = 2,
                             .q_len = 150,
                             .k_len = 270,
                             .head_dim = 8,
                             .block_q = random.pick({64, 128}),
                             .block_k = random.pick({64, 128})};
    Problem problem(shape, DType::f64, random);
    problem.tiles = random_mask(shape.grid(), 0.5, random);
    problem.scale = random.pick({0.3, -0.3});
    const Gradients gradients = run_backward(kReference, problem, run_forward(kReference, problem));

    // Steps of unit length, so that every element moves a little.
    const double size = static_cast<double>(problem.q.element_count() + problem.k.element_count() +
                                            problem.v.element_count());
    const auto direction_of = [&](const Tensor& tensor) {
      return Tensor(tensor).generate([&] { return random.normal() / std::sqrt(size); });
    };
    const Tensor q = direction_of(problem.q);
    const Tensor k = direction_of(problem.k);
    const Tensor v = direction_of(problem.v);
    const double want = derivative_at_zero([&](double step) {
      Problem moved = problem;
      move(moved.q, q, step);
      move(moved.k, k, step);
      move(moved.v, v, step);
      return loss(moved);
    });
    const double got = dot(gradients.dq, q) + dot(gradients.dk, k) + dot(gradients.dv, v);
    EXPECT_NEAR(got, want, kDerivativeTolerance);
  }
}

TEST(ReferenceBackwardTest, RowsWithoutMassHaveZeroGradients) {
  Random random(5);
  const ProblemShape shape{.q_len = 100, .k_len = 70, .head_dim = 2, .block_q = 64, .block_k = 64};
  Problem problem(shape, DType::f64, random);
  problem.tiles = TileMask(shape.grid());
  problem.tiles->set(0, 0, 0, 1);                        // keys 64 to 69 for queries 0 to 63
  for (std::int64_t query = 64; query < 100; ++query) {  // what nobody may look at
    problem.dout.set(problem.dout.index(0, 0, query), std::numeric_limits<double>::quiet_NaN());
  }
  const Gradients gradients = run_backward(kReference, problem, run_forward(kReference, problem));
  for (std::int64_t query = 0; query < 100; ++query) {
    EXPECT_EQ(gradients.dq.get(gradients.dq.index(0, 0, query)) == 0, query >= 64) << query;
  }
  for (std::int64_t key = 0; key < 70; ++key) {
    EXPECT_EQ(gradients.dk.get(gradients.dk.index(0, 0, key)) == 0, key < 64) << key;
    EXPECT_EQ(gradients.dv.get(gradients.dv.index(0, 0, key)) == 0, key < 64) << key;
  }
}

TEST(ReferenceBackwardTest, AnAbsentDlseIsZero) {
  Random random(6);
  Problem problem({.q_len = 6, .k_len = 5, .head_dim = 4}, DType::f64, random);
  const ForwardResult forward = run_forward(kReference, problem);
  problem.dlse.generate([] { return 0.0; });
  const Gradients zero = run_backward(kReference, problem, forward);
  problem.dlse = {};
  expect_same(run_backward(kReference, problem, forward), zero);
}

}  // namespace
}  // namespace saccade::test

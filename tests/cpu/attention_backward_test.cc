#include "support/attention.h"
#include "support/comparison.h"

#include <gtest/gtest.h>

namespace saccade::test {
namespace {

const Context kCpu{.backend = Backend::cpu};

void expect_gradients_of_reference(const Problem& problem) {
  SCOPED_TRACE(problem.describe());
  const ForwardResult forward = run_forward(kCpu, problem);
  expect_close_to_reference(problem, forward, run_backward(kCpu, problem, forward));
}

TEST(CpuBackwardTest, AgreesWithTheReferenceOnHostileProblems) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    expect_gradients_of_reference(hostile_problem(seed));
    if (HasFailure()) break;
  }
}

// From q, k and v alone, without any allowance for cancellation: what a user sees.
TEST(CpuBackwardTest, GradientsAreWithinTheCapsEndToEnd) {
  Random random(1);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t head_dim : {32, 64, 128}) {
      const ProblemShape shape{
          .q_heads = 2, .k_heads = 1, .q_len = 300, .k_len = 290, .head_dim = head_dim};
      Problem problem(shape, dtype, random);
      problem.tiles = random_mask(shape.grid(), 0.8, random);
      SCOPED_TRACE(problem.describe());
      const Gradients got = run_backward(kCpu, problem, run_forward(kCpu, problem));
      const Gradients want = reference_backward(problem, reference_forward(problem));
      const double tolerance = gradient_tolerance(dtype, 0);
      EXPECT_TRUE(is_close(got.dq, want.dq, tolerance));
      EXPECT_TRUE(is_close(got.dk, want.dk, tolerance));
      EXPECT_TRUE(is_close(got.dv, want.dv, tolerance));
    }
  }
}

TEST(CpuBackwardTest, EveryHeadDimension) {
  Random random(2);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (std::int64_t head_dim = 16; head_dim <= 256; head_dim += 16) {
      expect_gradients_of_reference(
          Problem({.q_len = 37, .k_len = 75, .head_dim = head_dim}, dtype, random));
    }
  }
}

TEST(CpuBackwardTest, EverySmallLength) {
  Random random(3);
  for (std::int64_t length = 1; length <= 70; ++length) {
    const std::int64_t other = random.integer(1, 70);
    expect_gradients_of_reference(Problem({.q_len = length, .k_len = other}, DType::f32, random));
    expect_gradients_of_reference(Problem({.q_len = other, .k_len = length}, DType::f32, random));
  }
}

// Rows of tiles of more than one mask word; columns of several slots.
TEST(CpuBackwardTest, AgreesWithTheReferenceOnLongRowsAndColumns) {
  Random random(4);
  for (const auto& [q_len, k_len] : {std::pair{70, 66 * 64 + 5}, std::pair{2000, 150}}) {
    const ProblemShape shape{.q_heads = 2, .k_heads = 1, .q_len = q_len, .k_len = k_len};
    Problem problem(shape, DType::f32, random);
    problem.tiles = random_mask(shape.grid(), 0.5, random);
    expect_gradients_of_reference(problem);
  }
}

// More key heads than one pass over the heads takes.
// Keys and values whose rows are a power of two apart and are visited so often, or just not so
// often, that copies with gaps pay. Both passes.
TEST(CpuBackwardTest, KeysThatManyQueriesVisitAgreeWithTheReference) {
  Random random(5);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t head_dim : {128, 256}) {
      for (const double share : {1.0, 0.7}) {
        const ProblemShape shape{.q_heads = 2,
                                 .k_heads = 1,
                                 .q_len = 64 * 9 + 3,
                                 .k_len = 139,
                                 .head_dim = head_dim,
                                 .block_q = 64};
        Problem problem(shape, dtype, random);
        if (share < 1) problem.tiles = random_mask(shape.grid(), share, random);
        SCOPED_TRACE(problem.describe());
        const ForwardResult forward = run_forward(kCpu, problem);
        expect_close(problem, forward, reference_forward(problem));
        expect_close_to_reference(problem, forward, run_backward(kCpu, problem, forward));
      }
    }
  }
}

TEST(CpuBackwardTest, AgreesWithTheReferenceOnManyHeads) {
  Random random(5);
  const ProblemShape shape{
      .batch = 3, .q_heads = 48, .k_heads = 24, .q_len = 20, .k_len = 70, .block_q = 64};
  Problem problem(shape, DType::bf16, random, Layout::bshd);
  problem.tiles = random_mask(shape.grid(), 0.7, random);
  problem.set_lengths({20, 0, 7}, {70, 70, 3});
  expect_gradients_of_reference(problem);
}

// Ring attention: each set of keys gets its gradients from the out and lse of all keys.
TEST(CpuBackwardTest, TheLseMayBeThatOfMoreKeys) {
  Random random(6);
  const ProblemShape shape{.q_heads = 2, .k_heads = 1, .q_len = 150, .k_len = 400};
  Problem problem(shape, DType::f32, random);
  const ForwardResult all_keys = run_forward(kCpu, problem);
  problem.tiles = random_mask(shape.grid(), 0.4, random);
  expect_close_to_reference(problem, all_keys, run_backward(kCpu, problem, all_keys));
}

// What backward must not look at: out and lse of padding (that of dout is NaN in many tests).
TEST(CpuBackwardTest, PaddingIsNotRead) {
  Random random(7);
  const ProblemShape shape{.batch = 2, .q_heads = 2, .k_heads = 1, .q_len = 150, .k_len = 100};
  Problem problem(shape, DType::f32, random);
  problem.set_lengths({100, 150}, {100, 33});
  const ForwardResult clean = run_forward(kCpu, problem);
  ForwardResult poisoned = clean;
  for (std::int64_t head = 0; head < 2; ++head) {
    for (std::int64_t query = 100; query < 150; ++query) {
      poisoned.lse.set(clean.lse.index(0, head, query), NAN);
      for (std::int64_t d = 0; d < shape.head_dim; ++d) {
        poisoned.out.set(clean.out.index(0, head, query, d), NAN);
      }
    }
  }
  expect_same(run_backward(kCpu, problem, poisoned), run_backward(kCpu, problem, clean));
}

}  // namespace
}  // namespace saccade::test

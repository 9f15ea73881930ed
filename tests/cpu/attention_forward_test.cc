#include "support/attention.h"
#include "support/comparison.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace saccade::test {
namespace {

const Context kCpu{.backend = Backend::cpu};

TEST(CpuForwardTest, AgreesWithTheReferenceOnHostileProblems) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Problem problem = hostile_problem(seed);
    SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << problem.describe());
    expect_close(problem, run_forward(kCpu, problem), reference_forward(problem));
    if (HasFailure()) break;
  }
}

// Rows of tiles of more than one mask word, and sums over many tiles.
TEST(CpuForwardTest, AgreesWithTheReferenceOnLongRows) {
  Random random(1);
  const ProblemShape shape{.q_heads = 2, .k_heads = 1, .q_len = 150, .k_len = 66 * 64 + 5};
  for (const VisitOrder order :
       {VisitOrder::linear, VisitOrder::reversed, VisitOrder::radial, VisitOrder::strongest}) {
    Problem problem(shape, DType::f32, random);
    problem.tiles = random_mask(shape.grid(), 0.5, random);
    problem.order = order;
    if (order == VisitOrder::strongest) visit_strongest_first(problem, random);
    problem.wants_scores = true;
    problem.threshold = -4.0;
    if (order == VisitOrder::radial) problem.measure = Measure::mean_mass;
    spread_scores(problem, random);
    SCOPED_TRACE(problem.describe());
    const ForwardResult got = run_forward(kCpu, problem);
    expect_close(problem, got, reference_forward(problem));
    EXPECT_GT(got.marks->count(), 0);
  }
}

// So few rows that they are cut into pieces, some of which hold no tile.
TEST(CpuForwardTest, AgreesWithTheReferenceOnRowsInPieces) {
  const ProblemShape shape{.q_heads = 2, .q_len = 150, .k_len = 66 * 64 + 5, .head_dim = 32};
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    Random random(seed);
    Problem problem(shape, seed % 3 == 0 ? DType::bf16 : DType::f32, random);
    const double share = random.pick({0.02, 0.5, 1.0});
    problem.tiles = random_mask(shape.grid(), share, random);
    problem.wants_scores = seed % 2 == 0;
    problem.threshold = -4.0;
    spread_scores(problem, random);
    if (seed % 4 == 0) problem.ref = random_ref(problem, random);
    if (seed % 4 == 1) problem.measure = Measure::mean_mass;
    if (seed % 4 == 3) problem.measure = Measure::largest_mass;
    if (seed % 6 == 4) visit_strongest_first(problem, random);
    if (seed % 5 == 0) problem.k.set(problem.k.index(0, 0, 2000, 3), std::nan(""));
    SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << problem.describe());
    expect_close(problem, run_forward(kCpu, problem), reference_forward(problem));
  }
}

// Ties ascend: the same tiles in the same order, also where rows are cut into pieces.
TEST(CpuForwardTest, EqualPrioritiesAreTheLinearOrderBitForBit) {
  for (const std::int64_t k_len : {300, 2500}) {
    Random random(7);
    const ProblemShape shape{.q_heads = 2, .q_len = 200, .k_len = k_len};
    Problem problem(shape, DType::f32, random);
    problem.tiles = random_mask(shape.grid(), 0.6, random);
    problem.wants_scores = true;
    problem.threshold = -1.0;
    spread_scores(problem, random);
    const ForwardResult linear = run_forward(kCpu, problem);
    visit_strongest_first(problem, random);
    const ForwardResult another = run_forward(kCpu, problem);
    EXPECT_FALSE(is_same(another.scores, linear.scores));
    for (const double priority : {0.0, -double{INFINITY}, double{NAN}}) {
      problem.priorities.generate([&] { return priority; });
      expect_same(run_forward(kCpu, problem), linear);
    }
  }
}

TEST(CpuForwardTest, EveryHeadDimension) {
  Random random(2);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (std::int64_t head_dim = 16; head_dim <= 256; head_dim += 16) {
      const Problem problem({.q_len = 37, .k_len = 75, .head_dim = head_dim}, dtype, random);
      SCOPED_TRACE(problem.describe());
      expect_close(problem, run_forward(kCpu, problem), reference_forward(problem));
    }
  }
}

// Every remainder of a block of rows and of a vector of queries.
TEST(CpuForwardTest, EverySmallLength) {
  Random random(3);
  for (std::int64_t length = 1; length <= 70; ++length) {
    const std::int64_t other = random.integer(1, 70);
    for (const auto& [q_len, k_len] : {std::pair{length, other}, std::pair{other, length}}) {
      const Problem problem({.q_len = q_len, .k_len = k_len}, DType::f32, random);
      SCOPED_TRACE(problem.describe());
      expect_close(problem, run_forward(kCpu, problem), reference_forward(problem));
    }
  }
}

// A batch whose samples share their keys and values: stride 0.
TEST(CpuForwardTest, KeysMayBeShared) {
  Random random(4);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Problem problem({.batch = 3, .q_len = 20, .k_len = 70}, dtype, random);
    for (Tensor* tensor : {&problem.k, &problem.v}) {
      const std::int64_t sample = tensor->element_count() / 3;
      for (std::int64_t i = sample; i < 3 * sample; ++i) tensor->set(i, tensor->get(i - sample));
    }
    const ForwardResult copied = run_forward(kCpu, problem);
    AttentionInputs inputs = problem.inputs();
    inputs.k.strides[0] = inputs.v.strides[0] = 0;
    const ForwardResult shared(problem);
    attention_forward(kCpu, inputs, {}, shared.outputs());
    expect_same(shared, copied);
  }
}

TEST(CpuForwardTest, OutputsThatAreNotAskedForChangeNothing) {
  Random random(5);
  for (const std::int64_t k_len : {300, 2500}) {  // the longer rows are cut into pieces
    const ProblemShape shape{.q_heads = 2, .q_len = 200, .k_len = k_len};
    Problem problem(shape, DType::f32, random);
    problem.tiles = random_mask(shape.grid(), 0.6, random);
    problem.wants_scores = true;
    problem.threshold = -1.0;
    spread_scores(problem, random);
    const ForwardResult all = run_forward(kCpu, problem);
    EXPECT_GT(all.marks->count(), 0);

    for (const bool has_marks : {false, true}) {
      for (const bool has_scores : {false, true}) {
        for (const bool has_lse : {false, true}) {
          const ForwardResult some(problem);
          AttentionForwardOutputs outputs = some.outputs();
          AttentionForwardOptions options = problem.forward_options();
          if (!has_marks) outputs.marks = {}, options.threshold = {};
          if (!has_scores) outputs.scores = {};
          if (!has_lse) outputs.lse = {};
          attention_forward(kCpu, problem.inputs(), options, outputs);
          EXPECT_TRUE(is_same(some.out, all.out));
          EXPECT_TRUE(!has_lse || is_same(some.lse, all.lse));
          EXPECT_TRUE(!has_scores || is_same(some.scores, all.scores));
          EXPECT_TRUE(!has_marks || some.marks == all.marks);
        }
      }
    }
  }
}

// Neither corrected nor capped; with the correction and the cap they are the scores of a call that
// sees all keys.
TEST(CpuForwardTest, ScoresOfPartialKeysAreLeftOpen) {
  Random random(6);
  const ProblemShape shape{.batch = 2, .q_heads = 2, .k_heads = 2, .q_len = 150, .k_len = 700};
  Problem problem(shape, DType::f32, random);
  problem.tiles = random_mask(shape.grid(), 0.6, random);
  problem.wants_scores = true;
  spread_scores(problem, random);
  problem.ref = random_ref(problem, random);
  AttentionForwardOptions options = problem.forward_options();
  options.is_partial = true;
  const ForwardResult open(problem), reference(problem);
  attention_forward(kCpu, problem.inputs(), options, open.outputs());
  attention_forward({.backend = Backend::reference}, problem.inputs(), options,
                    reference.outputs());
  EXPECT_TRUE(is_same(open.out, run_forward(kCpu, problem).out));
  double highest = -INFINITY;
  for (std::int64_t tile = 0; tile < shape.grid().tiles(); ++tile) {
    const double score = reference.scores.get(tile);
    if (std::isfinite(score)) {
      // A logit of 64 products is off by 64 * 2^-24 of its terms' sum at most, far less than this.
      EXPECT_NEAR(open.scores.get(tile), score, 1e-4 * (1 + problem.max_logit()));
      highest = std::max(highest, score);
    } else {
      EXPECT_TRUE(open.scores.get(tile) == score || std::isnan(score)) << tile;
    }
  }
  EXPECT_GT(highest, 0);
}

}  // namespace
}  // namespace saccade::test

#include "support/attention.h"
#include "support/comparison.h"

#include <saccade/executor.h>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>

// Values that are left out, against the reference that replays the panels of the cpu backend.

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const Context kCpu{.backend = Backend::cpu};

Problem with_panels_of_cpu(Problem problem) {
  problem.panel_rows = visit_plan(kCpu, problem.inputs(), problem.forward_options()).panel_rows;
  return problem;
}

// What the reference leaves, unless a panel lies so close to the threshold that rounding decides.
std::optional<ForwardResult> clear_reference(const Problem& problem) {
  const Problem same = with_panels_of_cpu(problem);
  const ForwardResult want = reference_forward(same);
  const double slack = score_tolerance(problem.max_logit());
  for (const double moved : {-slack, slack}) {
    Problem beside = same;
    beside.threshold = *problem.threshold + moved;
    const ForwardResult other = reference_forward(beside);
    if (!is_same(other.out, want.out) || !is_same(other.lse, want.lse)) return std::nullopt;
  }
  return want;
}

// Whether it was clear what to leave out, and some was. Then the cpu backend does the same.
bool expect_reference(const Problem& problem) {
  const std::optional<ForwardResult> want = clear_reference(problem);
  if (!want) return false;
  expect_close(problem, run_forward(kCpu, problem), *want);
  Problem complete = problem;
  complete.skips_values = false;
  return !is_same(reference_forward(complete).lse, want->lse);
}

TEST(CpuSkippedValuesTest, AgreesWithTheReferenceOnHostileProblems) {
  int leaving_out = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Problem problem = hostile_problem(seed);
    Random random(seed);
    problem.measure = Measure::largest_weight;
    problem.ref = {};
    problem.threshold = random.pick({-1.0, -2.0, -4.0, -8.0});
    problem.skips_values = true;
    spread_scores(problem, random);
    SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << problem.describe());
    leaving_out += expect_reference(problem);
    if (HasFailure()) break;
  }
  EXPECT_GT(leaving_out, 10);
}

// Also rows that are cut into pieces, which begin with tiles that are left out.
TEST(CpuSkippedValuesTest, AgreesWithTheReferenceOnRowsInPieces) {
  const ProblemShape shape{.q_heads = 2, .q_len = 150, .k_len = 66 * 64 + 5, .head_dim = 32};
  int leaving_out = 0;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    Random random(seed);
    Problem problem(shape, seed % 3 == 0 ? DType::bf16 : DType::f32, random);
    problem.tiles = random_mask(shape.grid(), random.pick({0.1, 0.5, 1.0}), random);
    problem.wants_scores = seed % 2 == 0;
    problem.threshold = random.pick({-3.0, -6.0});
    problem.skips_values = true;
    spread_scores(problem, random);
    if (seed % 4 == 1) visit_strongest_first(problem, random);
    if (seed % 4 == 2) problem.order = VisitOrder::reversed;
    if (seed % 5 == 0) problem.k.set(problem.k.index(0, 0, 2000, 3), std::nan(""));
    SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << problem.describe());
    leaving_out += expect_reference(problem);
  }
  EXPECT_GT(leaving_out, 3);
}

TEST(CpuSkippedValuesTest, MinusInfinityLeavesNothingOutBitForBit) {
  Random random(1);
  for (const std::int64_t k_len : {300, 2500}) {  // the longer rows are cut into pieces
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Problem problem({.q_heads = 2, .q_len = 200, .k_len = k_len}, dtype, random);
      problem.wants_scores = true;
      problem.threshold = -kInfinity;
      spread_scores(problem, random);
      const ForwardResult want = run_forward(kCpu, problem);
      problem.skips_values = true;
      expect_same(run_forward(kCpu, problem), want);
    }
  }
}

// The first tile of the row, and of the only piece, is left out: nothing was summed up before.
TEST(CpuSkippedValuesTest, ARowMayBeginWithWhatIsLeftOut) {
  Random random(2);
  for (const std::int64_t tiles : {1, 3}) {
    Problem problem({.q_len = 64, .k_len = tiles * 64}, DType::f32, random);
    problem.q.generate([] { return 1.0; });
    for (std::int64_t i = 0; i < 64 * 16; ++i) {
      problem.k.set(i, -kInfinity);
      problem.v.set(i, std::nan(""));
    }
    problem.threshold = -1.0;
    problem.skips_values = true;
    const ForwardResult got = run_forward(kCpu, problem);
    expect_close(problem, got, reference_forward(with_panels_of_cpu(problem)));
    EXPECT_EQ(std::isfinite(got.lse.get(0)), tiles > 1);
  }
}

TEST(CpuSkippedValuesTest, OutputsThatAreNotAskedForAndThreadsChangeNothing) {
  Random random(3);
  for (const std::int64_t k_len : {300, 2500}) {
    Problem problem({.q_heads = 2, .q_len = 200, .k_len = k_len}, DType::f32, random);
    problem.wants_scores = true;
    problem.threshold = -2.0;
    problem.skips_values = true;
    spread_scores(problem, random);
    const ForwardResult want = run_forward(kCpu, problem);
    for (const int threads : {1, 3}) {
      ThreadPool pool(threads);
      const ForwardResult got(problem);
      AttentionForwardOutputs outputs = got.outputs();
      outputs.marks = {}, outputs.scores = {};
      attention_forward({.executor = &pool, .backend = Backend::cpu}, problem.inputs(),
                        problem.forward_options(), outputs);
      EXPECT_TRUE(is_same(got.out, want.out));
      EXPECT_TRUE(is_same(got.lse, want.lse));
    }
    problem.skips_values = false;
    const ForwardResult complete = run_forward(kCpu, problem);
    EXPECT_TRUE(is_same(complete.scores, want.scores));
    EXPECT_EQ(*complete.marks, *want.marks);
    EXPECT_FALSE(is_same(complete.out, want.out));
  }
}

}  // namespace
}  // namespace saccade::test

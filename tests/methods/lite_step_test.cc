#include "lite_layer.h"

#include <saccade/error.h>
#include <saccade/lite.h>

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace saccade::lite {
namespace {

using test::ForwardResult;
using test::Problem;
using test::Random;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// A generation: the same problem at every step, with logits that leave something to skip.
class LiteStepTest : public ::testing::Test {
 protected:
  LiteStepTest()
      : random_(7),
        problem_({.batch = 1, .q_heads = 2, .k_heads = 2, .q_len = 300, .k_len = 700},
                 DType::f32,
                 random_),
        grid_(problem_.shape.grid()),
        state_(TileMask::full(grid_)) {
    test::spread_scores(problem_, random_);
    problem_.threshold = -4;
  }

  StepResult run(const StepPlan& plan, std::vector<TokenRange> protected_keys = {}) {
    StepResult result(problem_);
    step({}, problem_.inputs(), {.plan = plan, .protected_keys = protected_keys},
         {.mask = state_.view()}, result.with_marks());
    return result;
  }

  // What attention gives over a mask.
  ForwardResult attend(const TileMask& mask) {
    Problem masked = problem_;
    masked.tiles = mask;
    return test::run_forward({}, masked);
  }

  Random random_;
  Problem problem_;
  TileGrid grid_;
  TileMask state_;
};

TEST_F(LiteStepTest, ComputesTheStateAndDropsWhatItMarks) {
  for (int i = 0; i < 4; ++i) {
    const TileMask before = state_;
    const ForwardResult expected = attend(before);
    const StepResult result = run({.is_dense = false, .thresholds = {-4}});
    EXPECT_EQ(result.out.bytes(), expected.out.bytes());
    EXPECT_EQ(result.marks, *expected.marks);
    TileMask dropped = before;
    dropped -= result.marks;
    EXPECT_EQ(state_, dropped);
  }
  EXPECT_LT(state_.count(), grid_.tiles());
  EXPECT_GE(state_.count(), grid_.rows());  // the first tile of a row scores 0 and stays
}

TEST_F(LiteStepTest, DenseStepComputesEverythingAndMarks) {
  state_ = TileMask(grid_);
  const TileMask full = TileMask::full(grid_);
  const StepResult result = run({.is_dense = true, .thresholds = {-4}});
  EXPECT_EQ(result.out.bytes(), attend(full).out.bytes());
  TileMask kept = full;
  kept -= result.marks;
  EXPECT_EQ(state_, kept);
}

TEST_F(LiteStepTest, MinusInfinityIsTheFullMaskBitForBit) {
  const ForwardResult dense = attend(TileMask::full(grid_));
  for (int i = 0; i < 3; ++i) {
    const StepResult result = run({.is_dense = false, .thresholds = {-kInfinity}});
    EXPECT_EQ(result.out.bytes(), dense.out.bytes());
    EXPECT_EQ(state_, TileMask::full(grid_));
  }
}

TEST_F(LiteStepTest, ProtectedKeysStay) {
  run({.is_dense = false, .thresholds = {0}}, {{130, 131}});
  for (int q_tile = 0; q_tile < 3; ++q_tile) EXPECT_TRUE(state_.test(0, 1, q_tile, 2)) << q_tile;
  EXPECT_LT(state_.count(), grid_.tiles());
}

TEST_F(LiteStepTest, BadInputLeavesEverythingUntouched) {
  StepResult result(problem_);
  const auto refuses = [&](const AttentionInputs& inputs, const StepOptions& options,
                           const TileMaskView& mask, const StepOutputs& outputs) {
    EXPECT_THROW(step({}, inputs, options, {.mask = mask}, outputs), InvalidArgument);
    EXPECT_TRUE(result.out.is_unwritten());
    EXPECT_EQ(state_, TileMask::full(grid_));
  };
  const TileMask mask = state_;
  AttentionInputs with_tiles = problem_.inputs();
  with_tiles.tiles = mask.view();
  refuses(with_tiles, {}, state_.view(), result.with_marks());
  AttentionInputs with_ref = problem_.inputs();
  const test::Tensor ref = test::random_ref(problem_, random_);
  with_ref.ref = ref.view();
  refuses(with_ref, {}, state_.view(), result.with_marks());
  refuses(problem_.inputs(), {}, {}, result.with_marks());
  StepOutputs without_marks = result.with_marks();
  without_marks.marks = {};
  refuses(problem_.inputs(), {}, state_.view(), without_marks);
  TileGrid other = grid_;
  other.k_len += 64;
  const TileMask foreign = TileMask::full(other);
  refuses(problem_.inputs(), {.plan = {.is_dense = true}}, foreign.view(), result.with_marks());
  refuses(problem_.inputs(), {.plan = {.thresholds = {1}}}, state_.view(), result.with_marks());
  const TokenRange beyond[] = {{0, 701}};
  refuses(problem_.inputs(), {.protected_keys = beyond}, state_.view(), result.with_marks());
  refuses(problem_.inputs(), {.skipped_queries = beyond}, state_.view(), result.with_marks());
  const TokenRange text[] = {{0, 10}};
  refuses(problem_.inputs(),
          {.plan = {.thresholds = {-1}}, .rule = {.skips_values = true}, .protected_keys = text},
          state_.view(), result.with_marks());
}

}  // namespace
}  // namespace saccade::lite

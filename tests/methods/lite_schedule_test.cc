#include <saccade/error.h>
#include <saccade/lite.h>

#include <gtest/gtest.h>

#include <limits>

namespace saccade::lite {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

std::string message_of(const Schedule& schedule, std::int64_t step = 0) {
  try {
    plan_step(schedule, step);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "";
}

TEST(LiteScheduleTest, FirstStepIsDenseByDefault) {
  EXPECT_EQ(plan_step({.threshold = -5}, 0), (StepPlan{true, {-5}}));
  EXPECT_EQ(plan_step({.threshold = -5}, 1), (StepPlan{false, {-5}}));
  EXPECT_EQ(plan_step({.threshold = -5}, 1000), (StepPlan{false, {-5}}));
}

TEST(LiteScheduleTest, DenseHeadAndTail) {
  const Schedule schedule = {
      .threshold = -5, .dense_first_steps = 2, .dense_last_steps = 3, .num_steps = 8};
  const bool expected[] = {true, true, false, false, false, true, true, true};
  for (int step = 0; step < 8; ++step) {
    EXPECT_EQ(plan_step(schedule, step).is_dense, expected[step]) << step;
  }
}

TEST(LiteScheduleTest, ThresholdsOfSingleSteps) {
  const Schedule schedule = {.thresholds = {-9, -7, 0}};
  EXPECT_EQ(plan_step(schedule, 0).thresholds[0], -9);
  EXPECT_EQ(plan_step(schedule, 2).thresholds[0], 0);
  EXPECT_NE(message_of(schedule, 3).find("step is 3, but the schedule covers steps 0 to 2"),
            std::string::npos);
}

TEST(LiteScheduleTest, ContradictionsNameLimitAndValue) {
  EXPECT_NE(message_of({.threshold = 0.5}).find("threshold is 0.5"), std::string::npos);
  EXPECT_NE(message_of({.threshold = kNan}).find("threshold is nan"), std::string::npos);
  EXPECT_NE(message_of({.thresholds = {-1, 2}}).find("thresholds[1] is 2"), std::string::npos);
  EXPECT_NE(message_of({.dense_first_steps = -1}).find("dense_first_steps is -1"),
            std::string::npos);
  EXPECT_NE(message_of({.dense_last_steps = 1}).find("num_steps is unknown"), std::string::npos);
  EXPECT_NE(message_of({.thresholds = {-1, -2}, .num_steps = 3}).find("2 thresholds for 3 steps"),
            std::string::npos);
  EXPECT_NE(message_of({}, -1).find("step is -1"), std::string::npos);
  EXPECT_NE(message_of({.num_steps = 4}, 4).find("steps 0 to 3"), std::string::npos);
}

TEST(LiteClockTest, CountsFallingTimesteps) {
  Clock clock;
  EXPECT_EQ(clock.advance(999.0), 0);
  EXPECT_EQ(clock.advance(999.0), 0);  // the other guidance branch
  EXPECT_EQ(clock.advance(750.5), 1);
  EXPECT_EQ(clock.advance(750.5), 1);
  EXPECT_EQ(clock.advance(0.0), 2);
  EXPECT_EQ(clock.advance(999.0), 0);  // the next generation
  EXPECT_THROW(clock.advance(kNan), InvalidArgument);
  EXPECT_EQ(clock.advance(998.0), 1);  // the refused call left no trace
}

TEST(LiteStateTest, ResetsAtEveryNewGenerationAndProblem) {
  const TileGrid grid = {.batch = 1, .heads = 2, .q_len = 300, .k_len = 300};
  TileGrid longer = grid;
  longer.k_len = 301;
  TileGrid more = grid;
  more.batch = 2;
  TileGrid other_tiles = grid;
  other_tiles.block_k = 128;
  EXPECT_TRUE(must_reset(std::nullopt, {grid, 5}));
  EXPECT_FALSE(must_reset(LastCall{grid, 4}, {grid, 5}));
  EXPECT_FALSE(must_reset(LastCall{grid, 5}, {grid, 5}));  // the same step once more
  EXPECT_FALSE(must_reset(LastCall{grid, 1}, {grid, 5}));  // a cache skipped some calls
  EXPECT_TRUE(must_reset(LastCall{grid, 5}, {grid, 4}));
  EXPECT_TRUE(must_reset(LastCall{grid, 0}, {grid, 0}));  // generations of a single step
  EXPECT_TRUE(must_reset(LastCall{grid, 4}, {longer, 5}));
  EXPECT_TRUE(must_reset(LastCall{grid, 4}, {more, 5}));
  EXPECT_TRUE(must_reset(LastCall{grid, 4}, {other_tiles, 5}));
}

}  // namespace
}  // namespace saccade::lite

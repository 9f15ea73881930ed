#include "support/expect_error.h"

#include <saccade/lite_schedule.h>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace saccade::lite {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

void expect_refusal(const test::MessageParts& message, const Schedule& schedule, const Call& call) {
  test::expect_error<InvalidArgument>(message, [&] { plan_step(schedule, call); });
}

TEST(LiteScheduleTest, FirstStepIsDenseByDefault) {
  EXPECT_EQ(plan_step({.threshold = -5}, {.step = 0}), (StepPlan{true, {-5}}));
  EXPECT_EQ(plan_step({.threshold = -5}, {.step = 1}), (StepPlan{false, {-5}}));
  EXPECT_EQ(plan_step({.threshold = -5}, {.step = 1000}), (StepPlan{false, {-5}}));
}

TEST(LiteScheduleTest, DenseHeadAndTail) {
  const Schedule schedule = {
      .threshold = -5, .dense_first_steps = 2, .dense_last_steps = 3, .num_steps = 8};
  const bool expected[] = {true, true, false, false, false, true, true, true};
  for (int step = 0; step < 8; ++step) {
    EXPECT_EQ(plan_step(schedule, {.step = step}).is_dense, expected[step]) << step;
  }
}

TEST(LiteScheduleTest, DenseBySigma) {
  const Schedule schedule = {
      .dense_first_steps = 0, .dense_first_sigma = 0.75, .dense_last_sigma = 0.25};
  const auto is_dense = [&](double sigma) {
    return plan_step(schedule, {.step = 9, .sigma = sigma}).is_dense;
  };
  EXPECT_TRUE(is_dense(1));
  EXPECT_TRUE(is_dense(0.75));
  EXPECT_FALSE(is_dense(std::nextafter(0.75, 0)));
  EXPECT_FALSE(is_dense(0.25));
  EXPECT_TRUE(is_dense(std::nextafter(0.25, 0)));
  EXPECT_TRUE(is_dense(0));
}

TEST(LiteScheduleTest, StepsAndSigmaTogether) {
  const Schedule schedule = {
      .dense_first_steps = 1, .dense_last_steps = 1, .dense_first_sigma = 0.9, .num_steps = 4};
  EXPECT_TRUE(plan_step(schedule, {.step = 0, .sigma = 0.1}).is_dense);
  EXPECT_TRUE(plan_step(schedule, {.step = 1, .sigma = 0.9}).is_dense);
  EXPECT_FALSE(plan_step(schedule, {.step = 2, .sigma = 0.8}).is_dense);
  EXPECT_TRUE(plan_step(schedule, {.step = 3, .sigma = 0.1}).is_dense);
}

TEST(LiteScheduleTest, SigmaRulesNeedSigma) {
  const Schedule schedule = {.dense_last_sigma = 0.5};
  expect_refusal({"dense_last_sigma", "no sigma"}, schedule, {.step = 0});
  expect_refusal({"sigma is 1.5", "[0, 1]"}, schedule, {.step = 0, .sigma = 1.5});
  expect_refusal({"sigma is nan"}, schedule, {.step = 0, .sigma = kNan});
  EXPECT_NO_THROW(plan_step({}, {.step = 0, .sigma = 1.5}));  // nothing asks for it
}

TEST(LiteScheduleTest, ThresholdsOfSingleSteps) {
  const Schedule schedule = {.thresholds = {-9, -7, 0}};
  EXPECT_EQ(plan_step(schedule, {.step = 0}), (StepPlan{true, {-9}}));
  EXPECT_EQ(plan_step(schedule, {.step = 2}), (StepPlan{false, {0}}));
  expect_refusal({"step is 3, but the schedule covers steps 0 to 2"}, schedule, {.step = 3});
}

TEST(LiteScheduleTest, StepsAreCheckedAgainstEveryList) {
  const Schedule by_layer = {.layer_thresholds = {{.layers = "*", .thresholds = {-1, -2}}}};
  expect_refusal({"steps 0 to 1"}, by_layer, {.step = 2, .layer = "a"});
  expect_refusal({"steps 0 to 3"}, {.num_steps = 4}, {.step = 4});
  expect_refusal({"step is -1"}, {}, {.step = -1});
}

TEST(LiteScheduleTest, TheMostSpecificThresholdWins) {
  const Schedule schedule = {
      .threshold = -1,
      .thresholds = {-2, -3},
      .layer_thresholds = {{.layers = "blocks.*", .threshold = -4},
                           {.layers = "blocks.1.*", .thresholds = {-5, -6}},
                           {.layers = "blocks.2.*", .head_thresholds = {-7, -8, -9}},
                           {.layers = "blocks.2?.*", .threshold = -10},
                           {.layers = "blocks.21.*", .threshold = -kInfinity}}};
  const auto thresholds = [&](const char* layer, int step) {
    return plan_step(schedule, {.step = step, .layer = layer, .heads = 3}).thresholds;
  };
  using List = std::vector<double>;
  EXPECT_EQ(thresholds("other", 1), List{-3});
  EXPECT_EQ(thresholds("blocks.0.attn", 1), List{-4});
  EXPECT_EQ(thresholds("blocks.1.attn", 0), List{-5});
  EXPECT_EQ(thresholds("blocks.1.attn", 1), List{-6});
  EXPECT_EQ(thresholds("blocks.2.attn", 1), (List{-7, -8, -9}));
  EXPECT_EQ(thresholds("blocks.20.attn", 1), List{-10});
  EXPECT_EQ(thresholds("blocks.21.attn", 1), List{-kInfinity});
}

TEST(LiteScheduleTest, LaterEntriesWin) {
  const Schedule schedule = {
      .layer_thresholds = {{.layers = "a.b", .threshold = -2}, {.layers = "a.*", .threshold = -3}}};
  EXPECT_EQ(plan_step(schedule, {.layer = "a.b"}).thresholds, std::vector<double>{-3});
}

TEST(LiteScheduleTest, ThresholdsOfHeads) {
  const Schedule schedule = {.threshold = -1, .head_thresholds = {-2, -3}};
  EXPECT_EQ(plan_step(schedule, {.step = 7, .heads = 2}), (StepPlan{false, {-2, -3}}));
  expect_refusal({"head_thresholds has 2 entries", "3 query heads"}, schedule, {.heads = 3});
  expect_refusal({"layer_thresholds[0].head_thresholds has 1 entries", "0 query heads"},
                 {.layer_thresholds = {{.layers = "*", .head_thresholds = {-1}}}}, {});
}

TEST(LiteScheduleTest, DenseLayersNeverMark) {
  const Schedule schedule = {.dense_layers = {"blocks.0.*", "*.last"}};
  const StepPlan dense{true, {-kInfinity}};
  EXPECT_EQ(plan_step(schedule, {.step = 5, .layer = "blocks.0.attn"}), dense);
  EXPECT_EQ(plan_step(schedule, {.step = 5, .layer = "blocks.7.last"}), dense);
  EXPECT_EQ(plan_step(schedule, {.step = 5, .layer = "blocks.7.attn"}), (StepPlan{false, {-8}}));
  EXPECT_TRUE(is_dense_layer(schedule, "blocks.0.attn"));
  EXPECT_FALSE(is_dense_layer(schedule, "blocks.7.attn"));
}

TEST(LiteScheduleTest, ShortProblemsAreDense) {
  const Schedule schedule = {.min_length = 1000};
  EXPECT_EQ(plan_step(schedule, {.step = 5, .length = 999}), (StepPlan{true, {-kInfinity}}));
  EXPECT_EQ(plan_step(schedule, {.step = 5, .length = 1000}), (StepPlan{false, {-8}}));
  expect_refusal({"min_length 1000", "length of the call is 0"}, schedule, {});
}

TEST(LiteScheduleTest, PatternsMustMatchALayer) {
  const std::vector<std::string> layers = {"blocks.0.attn1", "blocks.1.attn1"};
  EXPECT_NO_THROW(require_layers({.dense_layers = {"blocks.[01].*"}}, layers));
  test::expect_error<InvalidArgument>(
      {"dense_layers[1] is 'block.1.attn1'", "none of the 2 layers", "nearest: 'blocks.1.attn1'"},
      [&] {
        require_layers({.dense_layers = {"*", "block.1.attn1"}}, layers);
      });
  test::expect_error<InvalidArgument>({"layer_thresholds[0].layers is 'x'"}, [&] {
    require_layers({.layer_thresholds = {{.layers = "x", .threshold = -1}}}, layers);
  });
  test::expect_error<InvalidArgument>({"no layers"}, [] { require_layers({}, {}); });
}

TEST(LiteScheduleTest, ThresholdsByStepAndHead) {
  const Schedule schedule = {
      .layer_thresholds = {{.layers = "a", .step_head_thresholds = {{-1, -2}, {-3, -4}}}}};
  const auto plan = [&](std::int64_t step, std::int64_t heads) {
    return plan_step(schedule, {.step = step, .layer = "a", .heads = heads});
  };
  EXPECT_EQ(plan(0, 2), (StepPlan{true, {-1, -2}}));
  EXPECT_EQ(plan(1, 2), (StepPlan{false, {-3, -4}}));
  test::expect_error<InvalidArgument>({"layer_thresholds[0].step_head_thresholds[1] has 2", "3"},
                                      [&] { plan(1, 3); });
  test::expect_error<InvalidArgument>({"step is 2", "0 to 1"}, [&] { plan(2, 2); });
}

}  // namespace
}  // namespace saccade::lite

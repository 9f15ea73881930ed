#include "support/expect_error.h"

#include <saccade/lite_schedule.h>

#include <fmt/format.h>

namespace saccade::lite {
namespace {

std::vector<std::string> layers_of(int count) {
  std::vector<std::string> layers;
  for (int i = 0; i < count; ++i) layers.push_back(fmt::format("blocks.{}.attn1", i));
  return layers;
}

TEST(LiteScheduleTableTest, HoldsThePlanOfEveryLayerAndStep) {
  const Schedule schedule = {.threshold = -1,
                             .layer_thresholds = {{.layers = "*.1.*", .head_thresholds = {-2, -3}}},
                             .dense_first_sigma = 0.6,
                             .min_length = 10};
  const Generation generation = {
      .layers = layers_of(3), .sigmas = {1, 0.7, 0.5, 0.2}, .heads = 2, .length = 10};
  const ScheduleTable table = resolve(schedule, generation);
  EXPECT_EQ(table.layers, generation.layers);
  EXPECT_EQ(table.sigmas, generation.sigmas);
  ASSERT_EQ(table.plans.size(), 3u);
  for (std::size_t layer = 0; layer < 3; ++layer) {
    ASSERT_EQ(table.plans[layer].size(), 4u);
    for (int step = 0; step < 4; ++step) {
      EXPECT_EQ(table.plans[layer][step], plan_step(schedule, {.step = step,
                                                               .sigma = table.sigmas[step],
                                                               .layer = table.layers[layer],
                                                               .heads = 2,
                                                               .length = 10}));
    }
  }
}

TEST(LiteScheduleTableTest, TheNumberOfStepsComesFromWhoeverKnowsIt) {
  const auto steps = [](const Schedule& schedule, const Generation& generation) {
    return resolve(schedule, generation).plans.front().size();
  };
  EXPECT_EQ(steps({}, {.layers = {"a"}, .num_steps = 5}), 5u);
  EXPECT_EQ(steps({}, {.layers = {"a"}, .sigmas = {1, 0.5}}), 2u);
  EXPECT_EQ(steps({.num_steps = 7}, {.layers = {"a"}}), 7u);
  EXPECT_EQ(steps({.thresholds = {-1, -2}}, {.layers = {"a"}}), 2u);
  EXPECT_EQ(steps({.num_steps = 7}, {.layers = {"a"}, .num_steps = 3}), 3u);  // the first 3
}

TEST(LiteScheduleTableTest, ContradictionsAreRefused) {
  const auto expect_refusal = [](const test::MessageParts& message, const Schedule& schedule,
                                 const Generation& generation) {
    test::expect_error<InvalidArgument>(message, [&] { resolve(schedule, generation); });
  };
  expect_refusal({"no layers"}, {}, {.num_steps = 3});
  expect_refusal({"number of steps is unknown"}, {}, {.layers = {"a"}});
  expect_refusal({"2 sigmas for 3 steps"}, {}, {.layers = {"a"}, .sigmas = {1, 0}, .num_steps = 3});
  expect_refusal({"num_steps is -1"}, {}, {.layers = {"a"}, .num_steps = -1});
  expect_refusal({"step is 2, but the schedule covers steps 0 to 1"}, {.num_steps = 2},
                 {.layers = {"a"}, .num_steps = 3});
  expect_refusal({"no sigma"}, {.dense_first_sigma = 0.5}, {.layers = {"a"}, .num_steps = 3});
}

TEST(LiteScheduleTableTest, TextGroupsEqualPlans) {
  const Schedule schedule = {.threshold = -6,
                             .layer_thresholds = {{.layers = "*.3.*", .threshold = -2.5}},
                             .dense_first_steps = 2,
                             .dense_last_steps = 1,
                             .num_steps = 10,
                             .dense_layers = {"*.0.*"}};
  EXPECT_EQ(to_text(resolve(schedule, {.layers = layers_of(5)})),
            "step                              0-1           2-8    9\n"
            "blocks.0.attn1                    dense         dense  dense\n"
            "blocks.1.attn1 to blocks.2.attn1  dense (-6)    -6     dense (-6)\n"
            "blocks.3.attn1                    dense (-2.5)  -2.5   dense (-2.5)\n"
            "blocks.4.attn1                    dense (-6)    -6     dense (-6)\n"
            "Thresholds in log2 units; dense (t): every tile is computed, and marked by threshold "
            "t.\n");
}

TEST(LiteScheduleTableTest, TextShowsSigmasAndHeads) {
  const Schedule schedule = {.layer_thresholds = {{.layers = "*.1.*", .head_thresholds = {-2, -3}}},
                             .dense_first_steps = 0,
                             .dense_first_sigma = 0.6};
  EXPECT_EQ(
      to_text(resolve(schedule, {.layers = layers_of(2), .sigmas = {1, 0.75, 0.5}, .heads = 2})),
      "step            0-1               2\n"
      "sigma           1 to 0.75         0.5\n"
      "blocks.0.attn1  dense (-8)        -8\n"
      "blocks.1.attn1  dense (-3 to -2)  -3 to -2\n"
      "Thresholds in log2 units; dense (t): every tile is computed, and marked by threshold "
      "t.\n");
}

TEST(LiteScheduleTableTest, WideTablesGoOnBelow) {
  std::vector<double> thresholds;
  for (int step = 0; step < 50; ++step) thresholds.push_back(-8 + step / 10.0);
  const std::string text = to_text(resolve({.thresholds = thresholds}, {.layers = layers_of(1)}));
  std::size_t tables = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    EXPECT_LE(end - begin, 100u);
    tables += text.compare(begin, 4, "step") == 0;
    begin = end + 1;
  }
  EXPECT_GT(tables, 1u);
  for (int step = 1; step < 50; ++step) {
    EXPECT_NE(text.find(fmt::format("{:.5g}", thresholds[step])), std::string::npos) << step;
  }
}

}  // namespace
}  // namespace saccade::lite

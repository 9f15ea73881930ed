#include "support/expect_error.h"

#include <saccade/lite_schedule.h>

#include <limits>

namespace saccade::lite {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

struct Refusal {
  Schedule schedule;
  test::MessageParts message;
};

void expect_refusals(const std::vector<Refusal>& refusals) {
  for (const Refusal& refusal : refusals) {
    SCOPED_TRACE(refusal.message.front());
    test::expect_error<InvalidArgument>(refusal.message, [&] { validate(refusal.schedule); });
  }
}

TEST(LiteScheduleValidationTest, Thresholds) {
  expect_refusals({
      {{.threshold = 0.5}, {"threshold is 0.5", "at most 0"}},
      {{.threshold = kNan}, {"threshold is nan"}},
      {{.threshold = kInfinity}, {"threshold is inf"}},
      {{.thresholds = {-1, 2}}, {"thresholds[1] is 2"}},
      {{.head_thresholds = {kNan}}, {"head_thresholds[0] is nan"}},
      {{.thresholds = {-1}, .head_thresholds = {-1}}, {"thresholds", "head_thresholds", "both"}},
      {{.thresholds = {-1, -2}, .num_steps = 3}, {"thresholds has 2 entries for 3 steps"}},
  });
  EXPECT_NO_THROW(validate({.threshold = -kInfinity, .thresholds = {0, -0.0, -kInfinity}}));
}

TEST(LiteScheduleValidationTest, ThresholdsOfLayers) {
  const LayerThresholds good = {.layers = "*", .threshold = -1};
  expect_refusals({
      {{.layer_thresholds = {good, {.layers = "", .threshold = -1}}},
       {"layer_thresholds[1].layers is empty"}},
      {{.layer_thresholds = {{.layers = "*"}}},
       {"layer_thresholds[0] has 0 of threshold, thresholds, head_thresholds and "
        "step_head_thresholds"}},
      {{.layer_thresholds = {{.layers = "*", .threshold = -1, .thresholds = {-1}}}},
       {"layer_thresholds[0] has 2"}},
      {{.layer_thresholds = {good, {.layers = "*", .threshold = 1}}},
       {"layer_thresholds[1].threshold is 1"}},
      {{.layer_thresholds = {{.layers = "*", .thresholds = {-1, kNan}}}},
       {"layer_thresholds[0].thresholds[1] is nan"}},
      {{.layer_thresholds = {{.layers = "*", .head_thresholds = {3}}}},
       {"layer_thresholds[0].head_thresholds[0] is 3"}},
      {{.thresholds = {-1, -2}, .layer_thresholds = {{.layers = "*", .thresholds = {-1}}}},
       {"layer_thresholds[0].thresholds has 1 entries for 2 steps"}},
      {{.layer_thresholds = {{.layers = "*", .step_head_thresholds = {{-1, 0}, {-1, kNan}}}}},
       {"layer_thresholds[0].step_head_thresholds[1][1] is nan"}},
      {{.layer_thresholds = {{.layers = "*", .step_head_thresholds = {{-1}, {}}}}},
       {"layer_thresholds[0].step_head_thresholds[1] is empty"}},
      {{.layer_thresholds = {{.layers = "*", .step_head_thresholds = {{-1}}}}, .num_steps = 2},
       {"layer_thresholds[0].step_head_thresholds has 1 entries for 2 steps"}},
  });
}

TEST(LiteScheduleValidationTest, ErrorsOfARecord) {
  CalibrationRecord record{.layers = {{"a", {.relative_l1 = {1, 2}, .rmse = {1, 2}}}}};
  expect_refusals(
      {{{.calibration = record},
        {"calibration.layers[0].errors has 2 entries of relative_l1, 2 of rmse and 0"}}});
  record = {.verification = {{}, {.errors = {.cosine = {1}}}}};
  expect_refusals({{{.calibration = record}, {"calibration.verification[1].errors"}}});
}

TEST(LiteScheduleValidationTest, DenseSteps) {
  expect_refusals({
      {{.dense_first_steps = -1}, {"dense_first_steps is -1"}},
      {{.dense_last_steps = -1}, {"dense_last_steps is -1"}},
      {{.num_steps = -1}, {"num_steps is -1"}},
      {{.dense_last_steps = 1}, {"num_steps is unknown"}},
      {{.dense_first_steps = 3, .dense_last_steps = 2, .num_steps = 4},
       {"dense_first_steps is 3", "dense_last_steps is 2", "only 4 steps"}},
      {{.dense_first_steps = 5, .num_steps = 4}, {"dense_first_steps is 5", "only 4 steps"}},
      {{.dense_first_sigma = 1.5}, {"dense_first_sigma is 1.5", "[0, 1]"}},
      {{.dense_last_sigma = kNan}, {"dense_last_sigma is nan"}},
      {{.dense_first_sigma = 0.4, .dense_last_sigma = 0.5}, {"dense_last_sigma is 0.5", "0.4"}},
      {{.dense_layers = {"*", "["}}, {"dense_layers[1] is '['"}},
      {{.min_length = -1}, {"min_length is -1"}},
  });
  constexpr auto kMany = std::numeric_limits<std::int64_t>::max();
  EXPECT_NO_THROW(validate({.dense_first_steps = kMany}));
  expect_refusals({{{.dense_first_steps = kMany, .dense_last_steps = kMany, .num_steps = kMany},
                    {"dense_first_steps is"}}});
}

TEST(LiteScheduleValidationTest, RangesNameTheOffendingPair) {
  expect_refusals({
      {{.must_do_queries = {{-1, 3}}}, {"must_do_queries[0] is [-1, 3)", "0 <= begin < end"}},
      {{.must_do_keys = {{0, 3}, {80, 40}}}, {"must_do_keys[1] is [80, 40)"}},
      {{.must_skip_keys = {{4, 4}}}, {"must_skip_keys[0] is [4, 4)"}},
      {{.must_skip_queries = {{0, 10}, {9, 12}}},
       {"must_skip_queries[1] is [9, 12)", "10", "must_skip_queries[0]"}},
      {{.must_do_keys = {{40, 80}, {0, 10}}}, {"must_do_keys[1] is [0, 10)", "must_do_keys[0]"}},
      {{.must_do_keys = {{0, 10}, {20, 30}}, .must_skip_keys = {{10, 20}, {29, 40}}},
       {"must_do_keys[1] is [20, 30)", "must_skip_keys[1] is [29, 40)"}},
      {{.must_do_queries = {{5, 6}}, .must_skip_queries = {{0, 100}}},
       {"must_do_queries[0] is [5, 6)", "must_skip_queries[0] is [0, 100)"}},
  });
  EXPECT_NO_THROW(validate({.must_do_queries = {{0, 10}, {10, 20}},
                            .must_do_keys = {{0, 10}},
                            .must_skip_queries = {{20, 30}},
                            .must_skip_keys = {{10, 11}}}));
}

TEST(LiteScheduleValidationTest, Fingerprints) {
  expect_refusals({
      {{.fingerprint = Fingerprint{.heads = -1}}, {"fingerprint.heads is -1"}},
      {{.fingerprint = Fingerprint{.block_k = 32}}, {"fingerprint.block_k is 32", "64, 128"}},
  });
}

}  // namespace
}  // namespace saccade::lite

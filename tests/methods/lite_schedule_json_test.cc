#include "support/expect_error.h"
#include "support/random.h"

#include <saccade/lite_schedule.h>

#include <cmath>
#include <limits>

namespace saccade::lite {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

const Schedule kEverything = {
    .threshold = -0.1,
    .thresholds = {-8, -kInfinity, -1.0 / 3},
    .layer_thresholds = {{.layers = "blocks.*", .threshold = -4e-300},
                         {.layers = "*.\"ü\"", .thresholds = {-1, -2, -3}},
                         {.layers = "[a-c]", .head_thresholds = {-1, 0}},
                         {.layers = "d", .step_head_thresholds = {{-1}, {-2}, {-kInfinity}}}},
    .dense_first_steps = 0,
    .dense_last_steps = 1,
    .dense_first_sigma = 0.9,
    .dense_last_sigma = 0.1,
    .num_steps = 3,
    .dense_layers = {"blocks.0.*"},
    .min_length = 4096,
    .must_do_queries = {{0, 226}},
    .must_do_keys = {{0, 226}, {300, 301}},
    .must_skip_queries = {{226, 228}},
    .must_skip_keys = {{400, 9'000'000'000}},
    .fingerprint = Fingerprint{.model = "Wan", .heads = 12, .order = "radial", .block_q = 128},
    .calibration =
        CalibrationRecord{
            .target = "error",
            .targets = {0.1, 0.2, 0.3},
            .seed = 7,
            .sparsity = 0.4,
            .work = 2.5,
            .layers = {{"d", {.relative_l1 = {0.1}, .rmse = {kInfinity}, .cosine = {1.0}}}},
            .verification = {{8, 0.3, {.relative_l1 = {0.1}, .rmse = {0.2}, .cosine = {-1}}}}},
};

TEST(LiteScheduleJsonTest, EveryFieldSurvives) {
  EXPECT_EQ(schedule_from_json(to_json(kEverything)), kEverything);
  EXPECT_EQ(schedule_from_json(to_json({})), Schedule{});
  const Schedule by_head = {.head_thresholds = {-1, -2}};
  EXPECT_EQ(schedule_from_json(to_json(by_head)), by_head);
}

TEST(LiteScheduleJsonTest, DoublesSurviveBitByBit) {
  test::Random random(3);
  for (int i = 0; i < 10'000; ++i) {
    const double threshold = -std::exp(1400 * random.uniform() - 700);
    const double read = schedule_from_json(to_json({.threshold = threshold})).threshold;
    ASSERT_EQ(read, threshold);
  }
  EXPECT_TRUE(std::signbit(schedule_from_json(to_json({.threshold = -0.0})).threshold));
}

TEST(LiteScheduleJsonTest, TheTextIsLaidOutByField) {
  EXPECT_EQ(to_json({.thresholds = {-kInfinity, -1},
                     .layer_thresholds = {{.layers = "a", .threshold = -1},
                                          {.layers = "b", .threshold = -2}},
                     .must_do_keys = {{0, 226}}}),
            R"({
  "version": 1,
  "threshold": -8.0,
  "thresholds": ["-inf",-1.0],
  "layer_thresholds": [
    {"layers":"a","threshold":-1.0},
    {"layers":"b","threshold":-2.0}
  ],
  "dense_first_steps": 1,
  "dense_last_steps": 0,
  "num_steps": 0,
  "min_length": 0,
  "must_do_keys": [[0,226]]
}
)");
}

TEST(LiteScheduleJsonTest, ARecordIsLaidOutByLayerAndSeed) {
  const std::string text = to_json(kEverything);
  const char* lines[] = {
      R"(    {"layers":"d","step_head_thresholds":[[-1.0],[-2.0],["-inf"]]})",
      R"(  "fingerprint": {"model":"Wan","layers":0,)",
      R"(  "calibration": {)",
      R"(    "targets": [0.1,0.2,0.3],)",
      R"(      {"layer":"d","errors":{"relative_l1":[0.1],"rmse":["inf"],"cosine":[1.0]}})",
      R"(      {"seed":8,"sparsity":0.3,"errors":{)",
  };
  for (const char* line : lines) {
    EXPECT_NE(text.find(std::string("\n") + line), std::string::npos) << line << "\n" << text;
  }
}

TEST(LiteScheduleJsonTest, AbsentFieldsHaveTheirDefaults) {
  EXPECT_EQ(schedule_from_json(R"({"version": 1})"), Schedule{});
  EXPECT_EQ(schedule_from_json(R"({"version": 1, "threshold": -3, "thresholds": []})"),
            Schedule{.threshold = -3});
}

TEST(LiteScheduleJsonTest, ErrorsNameThePath) {
  const struct {
    std::string fields;
    test::MessageParts message;
  } kCases[] = {
      {R"("treshold": -1)", {"no field \"treshold\"", "nearest: threshold"}},
      {R"("fingerprint": {"head": 3})", {"no field \"fingerprint.head\"", "nearest: heads"}},
      {R"("layer_thresholds": [{"layer": "*"}])",
       {"no field \"layer_thresholds[0].layer\"", "nearest: layers"}},
      {R"("threshold": true)", {"threshold is true, but must be a number or \"-inf\""}},
      {R"("threshold": null)", {"threshold is null"}},
      {R"("threshold": "-infinity")", {"threshold is \"-infinity\""}},
      {R"("threshold": "nan")", {"threshold is nan, but must be at most 0"}},
      {R"("threshold": "inf")", {"threshold is inf, but must be at most 0"}},
      {R"("threshold": 1e999)", {"no JSON"}},
      {R"("thresholds": -1)", {"thresholds is -1, but must be a list"}},
      {R"("thresholds": [-1, [-2]])", {"thresholds[1] is a list, but must be a number"}},
      {R"("thresholds": [-1, 2])", {"thresholds[1] is 2"}},
      {R"("layer_thresholds": [3])", {"layer_thresholds[0] is 3, but must be an object"}},
      {R"("layer_thresholds": [{"layers": 3}])", {"layer_thresholds[0].layers is 3", "a text"}},
      {R"("layer_thresholds": [{"layers": "*", "thresholds": [-1, 1]}])",
       {"layer_thresholds[0].thresholds[1] is 1"}},
      {R"("num_steps": 3.0)", {"num_steps is 3.0, but must be an integer"}},
      {R"("num_steps": 9223372036854775808)", {"num_steps is 9223372036854775808"}},
      {R"("num_steps": false)", {"num_steps is false"}},
      {R"("dense_first_sigma": 2)", {"dense_first_sigma is 2"}},
      {R"("dense_layers": "*")", {"dense_layers is \"*\", but must be a list"}},
      {R"("must_do_keys": [[0, 1, 2]])", {"must_do_keys[0] is a list, but must be [begin, end]"}},
      {R"("must_do_keys": [[0, "1"]])", {"must_do_keys[0][1] is \"1\""}},
      {R"("must_do_keys": [0, 1])", {"must_do_keys[0] is 0"}},
      {R"("fingerprint": [])", {"fingerprint is a list, but must be an object"}},
      {R"("fingerprint": {"model": 1})", {"fingerprint.model is 1"}},
      {R"("num_steps": 1, "num_steps": 2)", {"\"num_steps\" is given twice"}},
      {R"("version": 1)", {"\"version\" is given twice"}},
      {R"("thresholds": [[[[[[[[[[]]]]]]]]]])", {"nested more than 8 deep"}},
  };
  for (const auto& [fields, message] : kCases) {
    SCOPED_TRACE(fields);
    test::expect_error<InvalidArgument>(
        message, [&] { schedule_from_json(R"({"version": 1, )" + fields + "}"); });
  }
}

TEST(LiteScheduleJsonTest, WhatIsNoScheduleIsRefused) {
  const struct {
    std::string text;
    test::MessageParts message;
  } kCases[] = {
      {"", {"no JSON"}},
      {"{", {"no JSON"}},
      {R"({"version": 1} x)", {"no JSON"}},
      {"{\"version\": 1, \"dense_layers\": [\"\xff\"]}", {"no JSON"}},
      {"\"\xc3\xa4\xc3", {"no JSON", "last read: '\"???"}},
      {std::string("\0", 1), {"no JSON"}},
      {std::string(1'000'000, '['), {"nested more than 8 deep"}},
      {"[]", {"the schedule is a list"}},
      {"3", {"the schedule is 3"}},
      {"{}", {"no field version", "must be 1"}},
      {R"({"version": 2})", {"version is 2", "version 1 only"}},
      {R"({"version": "1"})", {"version is \"1\""}},
      {"{\"" + std::string(1'000'000, 'x') + "\": 1, \"version\": 1}", {"no field \"xxx", "..."}},
  };
  for (const auto& [text, message] : kCases) {
    SCOPED_TRACE(text.substr(0, 40));
    test::expect_error<InvalidArgument>(message, [&] { schedule_from_json(text); });
  }
}

TEST(LiteScheduleJsonTest, AnyBytesAreReadOrRefused) {
  test::Random random(5);
  const std::string good = to_json(kEverything);
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string text = good;
    for (int edits = random.pick({1, 2, 8}); edits > 0; --edits) {
      text[random.integer(0, static_cast<int>(text.size()) - 1)] =
          static_cast<char>(random.integer(0, 255));
    }
    try {
      const Schedule schedule = schedule_from_json(text);
      EXPECT_EQ(schedule_from_json(to_json(schedule)), schedule);
    } catch (const InvalidArgument&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10'000);
  EXPECT_LT(refused, 20'000);
}

TEST(LiteScheduleJsonTest, OnlyLegalSchedulesAreWritten) {
  test::expect_error<InvalidArgument>({"threshold is 1"}, [] { to_json({.threshold = 1}); });
  test::expect_error<InvalidArgument>({"not UTF-8"}, [] { to_json({.dense_layers = {"\xff"}}); });
}

}  // namespace
}  // namespace saccade::lite

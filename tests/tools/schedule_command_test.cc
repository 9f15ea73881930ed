#include "tools/tool_run.h"

#include <saccade/lite_schedule.h>

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

namespace saccade::cli {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class ScheduleCommand : public ::testing::Test {
 protected:
  ~ScheduleCommand() override {
    std::filesystem::remove(from_);
    std::filesystem::remove(json_);
  }

  void write(const lite::Schedule& schedule) { std::ofstream(from_) << lite::to_json(schedule); }

  lite::Schedule written() const {
    std::stringstream text;
    text << std::ifstream(json_).rdbuf();
    return lite::schedule_from_json(text.str());
  }

  std::string from_ = temporary_path("from.json");
  std::string json_ = temporary_path("schedule.json");
};

TEST_F(ScheduleCommand, EveryFieldHasAFlag) {
  const ToolRun run = run_tool(
      "schedule --threshold -inf --thresholds -3,-2.5,-inf --dense-first-steps 0 "
      "--dense-last-steps 1 --dense-first-sigma 0.9 --dense-last-sigma 0.1 --num-steps 3 "
      "--layer-thresholds 'a.*=-4' --layer-thresholds 'a.[01]=steps:-1,-2,-3' "
      "--layer-thresholds 'b=heads:-5,-inf' --dense-layers 'c,d*' --min-length 4096 "
      "--must-do-queries 0:3 --must-do-keys 0:226,300:301 --must-skip-queries 5:6 "
      "--must-skip-keys 400:500 --fingerprint model=7 --fingerprint heads=2 "
      "--layers 'a.{0..3},b,c,d' --sigmas 1,0.5,0 --heads 2 --length 5000 --json '" +
      json_ + "'");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(
      written(),
      (lite::Schedule{.threshold = -kInfinity,
                      .thresholds = {-3, -2.5, -kInfinity},
                      .layer_thresholds = {{.layers = "a.*", .threshold = -4},
                                           {.layers = "a.[01]", .thresholds = {-1, -2, -3}},
                                           {.layers = "b", .head_thresholds = {-5, -kInfinity}}},
                      .dense_first_steps = 0,
                      .dense_last_steps = 1,
                      .dense_first_sigma = 0.9,
                      .dense_last_sigma = 0.1,
                      .num_steps = 3,
                      .dense_layers = {"c", "d*"},
                      .min_length = 4096,
                      .must_do_queries = {{0, 3}},
                      .must_do_keys = {{0, 226}, {300, 301}},
                      .must_skip_queries = {{5, 6}},
                      .must_skip_keys = {{400, 500}},
                      .fingerprint = lite::Fingerprint{.model = "7", .heads = 2}}));
  const lite::ScheduleTable table =
      lite::resolve(written(), {.layers = {"a.0", "a.1", "a.2", "a.3", "b", "c", "d"},
                                .sigmas = {1, 0.5, 0},
                                .heads = 2,
                                .length = 5000});
  EXPECT_EQ(run.out, lite::to_text(table));
}

TEST_F(ScheduleCommand, FlagsReplaceTheFieldsOfAFile) {
  lite::Schedule schedule = {.threshold = -3,
                             .dense_first_steps = 4,
                             .must_do_keys = {{0, 5}, {7, 8}},
                             .fingerprint = lite::Fingerprint{.model = "Wan", .heads = 12}};
  write(schedule);
  const ToolRun run = run_tool("schedule --from '" + from_ +
                               "' --dense-first-steps 2 --must-do-keys 1:2 --fingerprint heads=3 "
                               "--head-thresholds -1,-2,-3 --heads 3 --steps 5 --json '" +
                               json_ + "'");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  schedule.dense_first_steps = 2;
  schedule.must_do_keys = {{1, 2}};
  schedule.fingerprint->heads = 3;
  schedule.head_thresholds = {-1, -2, -3};
  EXPECT_EQ(written(), schedule);
}

TEST_F(ScheduleCommand, FlowShiftGivesSigmas) {
  const ToolRun run =
      run_tool("schedule --dense-first-steps 0 --dense-first-sigma 0.75 --steps 4 --flow-shift 3");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  // t = 1, 3/4, 1/2, 1/4 becomes 3 t / (1 + 2 t) = 1, 0.9, 0.75, 0.5.
  const lite::ScheduleTable table =
      lite::resolve({.dense_first_steps = 0, .dense_first_sigma = 0.75},
                    {.layers = {"every layer"}, .sigmas = {1, 0.9, 0.75, 0.5}});
  EXPECT_EQ(run.out, lite::to_text(table));
}

TEST_F(ScheduleCommand, RefusalsExitWithOneAndWriteNothing) {
  const struct {
    const char* arguments;
    const char* message;
  } kCases[] = {
      {"--steps 3 --threshold 1", "threshold is 1"},
      {"--steps 3 --must-do-keys 5:2", "must_do_keys[0] is [5, 2)"},
      {"--steps 3 --fingerprint color=3", "no field \"fingerprint.color\""},
      {"--steps 3 --dense-first-sigma 0.5", "no sigma"},
      {"--steps 3 --dense-layers 'a*'", "--layers"},
      {"--steps 3 --dense-layers 'a*' --layers b", "matches none"},
      {"--steps 3 --layers 'a.{3..1}'", "a.{3..1}"},
      {"", "number of steps is unknown"},
  };
  for (const auto& [arguments, message] : kCases) {
    SCOPED_TRACE(arguments);
    const ToolRun run = run_tool("schedule --json '" + json_ + "' " + arguments);
    EXPECT_EQ(run.exit_code, 1);
    EXPECT_EQ(run.out, "");
    EXPECT_TRUE(contains(run.err, message));
    EXPECT_FALSE(std::filesystem::exists(json_));
  }
  std::ofstream(from_) << R"({"version": 1, "treshold": 1})";
  const ToolRun run = run_tool("schedule --steps 3 --from '" + from_ + "'");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(contains(run.err, "nearest: threshold"));
}

}  // namespace
}  // namespace saccade::cli

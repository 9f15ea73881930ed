#include "tools/tool_run.h"

#include <saccade/info.h>
#include <saccade/lite_schedule.h>
#include <saccade/trace.h>

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace saccade::cli {
namespace {

constexpr std::int64_t kSteps = 4, kHeads = 2, kLength = 512, kHeadDim = 16;

// A generation of two layers and two branches, whose tiles of keys differ in weight.
class CalibrateCommand : public ::testing::Test {
 protected:
  CalibrateCommand() {
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    for (std::vector<float>& values : values_) {
      for (std::int64_t i = 0; i < kHeads * kLength * kHeadDim; ++i) {
        values.push_back(normal(random));
      }
    }
    for (std::int64_t i = 0; i < kHeads * kLength; ++i) {  // tile t of keys gets logits less by t
      values_[0][i * kHeadDim] = 1;
      values_[1][i * kHeadDim] = -4.0f * static_cast<float>(i % kLength / 64);
    }
  }
  ~CalibrateCommand() override {
    for (const std::string& path : {trace_, json_, base_}) std::filesystem::remove(path);
  }

  // Leaves out the calls of one step of one layer.
  void write_trace(std::int64_t missing_step = -1) const {
    const auto view = [&](int i) {
      return TensorView::contiguous(values_[i].data(), DType::f32, {1, kHeads, kLength, kHeadDim});
    };
    std::vector<TraceCall> calls;
    for (std::int64_t step = 0; step < kSteps; ++step) {
      for (const char* branch : {"cond", "uncond"}) {
        for (const char* layer : {"a.0", "a.1"}) {
          if (step == missing_step && std::string(layer) == "a.1") continue;
          calls.push_back({step, branch, layer, 1 - static_cast<double>(step) / kSteps, view(0),
                           view(1), view(2)});
        }
      }
    }
    saccade::write_trace(trace_, {.model = "Wan", .num_steps = kSteps}, calls);
  }

  ToolRun calibrate(const std::string& options) const {
    return run_tool("calibrate '" + trace_ + "' --json '" + json_ + "' --block-q 64 " + options);
  }

  lite::Schedule written() const {
    std::stringstream text;
    text << std::ifstream(json_).rdbuf();
    return lite::schedule_from_json(text.str());
  }

  std::vector<float> values_[3];
  std::string trace_ = temporary_path("trace.safetensors");
  std::string json_ = temporary_path("schedule.json");
  std::string base_ = temporary_path("base.json");
};

TEST_F(CalibrateCommand, KeepsTheErrorOfEveryStepAndLayer) {
  write_trace();
  const ToolRun run = calibrate("--error 0.05 --slope 0.01");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const lite::Schedule schedule = written();
  EXPECT_EQ(*schedule.fingerprint, (lite::Fingerprint{.model = "Wan",
                                                      .layers = 2,
                                                      .heads = 2,
                                                      .head_dim = 16,
                                                      .length = 512,
                                                      .steps = 4,
                                                      .rule = "threshold",
                                                      .measure = "largest_weight",
                                                      .reference = "running",
                                                      .order = "linear",
                                                      .block_q = 64,
                                                      .block_k = 64,
                                                      .token_order = "frames",
                                                      .saccade_version = std::string(version())}));
  EXPECT_EQ(schedule.num_steps, kSteps);
  ASSERT_EQ(schedule.layer_thresholds.size(), 2u);
  const double infinity = std::numeric_limits<double>::infinity();
  for (const lite::LayerThresholds& entry : schedule.layer_thresholds) {
    ASSERT_EQ(entry.step_head_thresholds.size(), 4u);
    EXPECT_EQ(entry.step_head_thresholds[3], (std::vector<double>{-infinity, -infinity}));
    for (const double threshold : entry.step_head_thresholds[0]) EXPECT_GT(threshold, -infinity);
  }
  const lite::CalibrationRecord& record = *schedule.calibration;
  EXPECT_EQ(record.target, "error");
  EXPECT_GT(record.sparsity, 0.2);
  EXPECT_GT(record.work, 1);
  EXPECT_LE(record.work, 3.5);
  ASSERT_EQ(record.layers.size(), 2u);
  for (const lite::LayerErrors& layer : record.layers) {
    EXPECT_EQ(layer.errors.relative_l1[0], 0);
    for (std::size_t step = 1; step < 4; ++step) {
      EXPECT_LE(layer.errors.relative_l1[step], record.targets[step]) << layer.layer << step;
      EXPECT_GT(layer.errors.relative_l1[step], 0);
      EXPECT_NEAR(layer.errors.cosine[step], 1, 0.01);
    }
  }
  EXPECT_TRUE(contains(run.out, "a.0"));
  EXPECT_TRUE(contains(run.out, "% of the tiles skipped; attention computed"));
}

TEST_F(CalibrateCommand, PredictsASparsity) {
  write_trace();
  const ToolRun run = calibrate("--sparsity 0.4");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(written().layer_thresholds.empty());
  EXPECT_GE(written().calibration->sparsity, 0.4);
  EXPECT_EQ(written().calibration->work, 1);
  EXPECT_TRUE(contains(run.out, "skipped (predicted)"));
  const ToolRun too_much = calibrate("--sparsity 0.99");
  EXPECT_EQ(too_much.exit_code, 1);
  EXPECT_TRUE(contains(too_much.err, "is predicted to skip only"));
}

TEST_F(CalibrateCommand, TakesWhatIsDenseFromASchedule) {
  write_trace();
  std::ofstream(base_) << lite::to_json({.dense_first_steps = 2, .dense_layers = {"a.0"}});
  const ToolRun run = calibrate(
      "--common-threshold --reference lse --order alternating --schedule '" + base_ + "'");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(written().dense_first_steps, 2);
  EXPECT_EQ(written().fingerprint->reference, "lse");
  EXPECT_EQ(written().fingerprint->order, "alternating");
  ASSERT_EQ(written().layer_thresholds.size(), 1u);
  EXPECT_EQ(written().layer_thresholds[0].layers, "a.1");
  EXPECT_EQ(written().layer_thresholds[0].thresholds.size(), 4u);
  EXPECT_EQ(calibrate("--dense-first-steps 3").exit_code, 0);
  EXPECT_EQ(written().dense_first_steps, 3);
}

TEST_F(CalibrateCommand, RefusesWithTheReason) {
  const auto expect_refusal = [&](const std::string& options, const std::string& reason) {
    const ToolRun run = calibrate(options);
    EXPECT_NE(run.exit_code, 0) << options;
    EXPECT_TRUE(contains(run.err, reason));
    EXPECT_FALSE(std::filesystem::exists(json_)) << options;
  };
  write_trace();
  expect_refusal("--error 0.1,0.2", "--error has 2 values, but the generation has 4 steps");
  expect_refusal("--error 0.005", "slope");
  expect_refusal("--error 0.1 --sparsity 0.2", "--error");
  expect_refusal("--reference row", "row");
  expect_refusal("--block-k 32", "32");
  write_trace(2);
  expect_refusal("", "the trace has step 3 of a.1 (cond) where step 2 should follow");
  write_trace(3);
  expect_refusal("", "the trace ends with step 2 of a.1 (cond), but the generation has 4 steps");
  EXPECT_EQ(run_tool("calibrate /nowhere --json x").exit_code, 2);
}

}  // namespace
}  // namespace saccade::cli

#include "tools/tool_run.h"

#include <saccade/trace.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace saccade::cli {
namespace {

const std::string kDemoTrace = SACCADE_TEST_DATA "/demo.trace";
constexpr const char* kSmallTiles = " --block-q 64 --block-k 64 ";

class ReplayCommand : public testing::Test {
 protected:
  ~ReplayCommand() override {
    std::filesystem::remove(json_);
    std::filesystem::remove(trace_);
  }

  ToolRun run(const std::string& arguments, const std::string& trace = kDemoTrace) const {
    return run_tool("replay '" + trace + "'" + kSmallTiles + arguments);
  }

  nlohmann::json replay(const std::string& arguments, const std::string& trace = kDemoTrace) const {
    const ToolRun done = run(arguments + " --json '" + json_ + "'", trace);
    EXPECT_EQ(done.exit_code, 0) << done.err;
    return nlohmann::json::parse(std::ifstream(json_));
  }

  // The demo trace without the calls and facts that `change` takes away.
  template <typename Change>
  void write(Change change) const {
    const Trace demo = Trace::open(kDemoTrace);
    TraceInfo info = demo.info();
    std::vector<TraceCall> calls(demo.calls().begin(), demo.calls().end());
    change(info, calls);
    write_trace(trace_, info, calls);
  }

  std::string json_ = temporary_path("replay.json"), trace_ = temporary_path("replay.trace");
};

int lines_of(const std::string& text, const std::string& part) {
  std::istringstream lines(text);
  int count = 0;
  for (std::string line; std::getline(lines, line);) count += line.find(part) != std::string::npos;
  return count;
}

TEST_F(ReplayCommand, PrintsStepsAndTotals) {
  const ToolRun done = run("--threshold -2");
  ASSERT_EQ(done.exit_code, 0) << done.err;
  for (const char* part :
       {"WanTransformer3DModel", "10 calls; layers: 2, branches: 1, steps of the generation: 12",
        "8 frames of 8 x 8 tokens", "lite, tiles 64 x 64, measure largest_weight",
        "mass-budget none", "sparsity", "rel. L1", "RMSE", "cosine", "speed-up"}) {
    EXPECT_TRUE(contains(done.out, part));
  }
  EXPECT_EQ(lines_of(done.out, " %"), 6);  // 5 steps and the total
  const ToolRun layers = run("--threshold -2 --per-layer");
  EXPECT_EQ(lines_of(layers.out, "transformer.blocks.2.attn1 cond"), 5);
  EXPECT_EQ(lines_of(layers.out, " %"), 11);
}

TEST_F(ReplayCommand, StepsAndTotalsAreSumsOfCalls) {
  const auto json = replay("--threshold -1");
  std::int64_t active = 0, tiles = 0;
  double seconds = 0;
  for (const auto& call : json["calls"]) {
    active += call["active_tiles"].get<std::int64_t>();
    tiles += call["tiles"].get<std::int64_t>();
    seconds += call["seconds"].get<double>();
    EXPECT_GT(call["dense_seconds"], 0);
  }
  EXPECT_EQ(json["total"]["active_tiles"], active);
  EXPECT_EQ(json["total"]["tiles"], tiles);
  EXPECT_EQ(json["total"]["calls"], 10);
  EXPECT_NEAR(json["total"]["seconds"], seconds, 1e-9);
  EXPECT_NEAR(json["total"]["sparsity"], 1.0 - static_cast<double>(active) / tiles, 1e-12);
  ASSERT_EQ(json["steps"].size(), 5u);
  EXPECT_EQ(json["steps"][4]["step"], 11);
  EXPECT_EQ(json["method"]["name"], "lite");
  EXPECT_EQ(json["method"]["schedule"]["threshold"], -1);
  EXPECT_EQ(json["method"]["options"]["reprobe-period"], 0);
  EXPECT_EQ(json["method"]["options"]["order"], "linear");
  EXPECT_EQ(json["method"]["options"]["skips-values"], false);
  EXPECT_TRUE(json.contains("cpu_model"));
}

TEST_F(ReplayCommand, WithoutSkippingNothingIsLost) {
  for (const char* arguments :
       {"--threshold -inf", "--dense-layers '*'", "--method random --sparsity 0",
        "--method random --sparsity 0.9 --dense-first-steps 12"}) {
    const auto total = replay(arguments)["total"];
    EXPECT_EQ(total["sparsity"], 0) << arguments;
    EXPECT_EQ(total["relative_l1"], 0) << arguments;
    EXPECT_EQ(total["rmse"], 0) << arguments;
    EXPECT_NEAR(total["cosine"], 1, 1e-12) << arguments;
    EXPECT_EQ(total["kept_mass"], 1) << arguments;
  }
}

TEST_F(ReplayCommand, StrongestFirstAndSkippedValues) {
  const auto linear = replay("--threshold -1"), skipping = replay("--threshold -1 --skips-values");
  EXPECT_EQ(skipping["method"]["options"]["skips-values"], true);
  EXPECT_EQ(skipping["total"]["sparsity"], linear["total"]["sparsity"]);
  EXPECT_GT(skipping["total"]["relative_l1"], linear["total"]["relative_l1"]);
  EXPECT_LT(skipping["total"]["kept_mass"], linear["total"]["kept_mass"]);
  const auto strongest = replay("--threshold -1 --order strongest");
  EXPECT_EQ(strongest["method"]["options"]["order"], "strongest");
  EXPECT_NE(strongest["total"]["sparsity"], linear["total"]["sparsity"]);
}

TEST_F(ReplayCommand, DenseStepsAreDenseForEveryMethod) {
  for (const char* method : {"lite", "random"}) {
    const auto json =
        replay(std::string("--threshold -0.5 --dense-first-steps 3 --method ") + method);
    for (const auto& step : json["steps"]) {
      if (step["step"] < 3) {
        EXPECT_EQ(step["sparsity"], 0) << method;
      } else {
        EXPECT_GT(step["sparsity"], 0) << method;
      }
    }
  }
}

TEST_F(ReplayCommand, EachLayerAndBranchHasAStateOfItsOwn) {
  const auto both = replay("--threshold -1");
  write([](TraceInfo&, std::vector<TraceCall>& calls) {
    std::erase_if(calls,
                  [](const TraceCall& call) { return call.layer != "transformer.blocks.2.attn1"; });
  });
  std::vector<nlohmann::json> expected;
  for (const auto& call : both["calls"]) {
    if (call["layer"] == "transformer.blocks.2.attn1") expected.push_back(call["active_tiles"]);
  }
  std::vector<nlohmann::json> found;
  const auto alone = replay("--threshold -1", trace_);
  for (const auto& call : alone["calls"]) found.push_back(call["active_tiles"]);
  EXPECT_EQ(found, expected);
  // The other layer's calls as a branch of this one.
  write([](TraceInfo&, std::vector<TraceCall>& calls) {
    for (TraceCall& call : calls) {
      if (call.layer != "transformer.blocks.2.attn1") call.branch = "uncond";
      call.layer = "one";
    }
  });
  found.clear();
  const auto branches = replay("--threshold -1", trace_);
  for (const auto& call : branches["calls"]) {
    if (call["branch"] == "cond") found.push_back(call["active_tiles"]);
  }
  EXPECT_EQ(found, expected);
}

TEST_F(ReplayCommand, EveryBaselineKeepsWhatItIsTold) {
  const auto sparsity = [&](const std::string& arguments) {
    return replay("--dense-first-steps 0 --method " + arguments)["total"]["sparsity"].get<double>();
  };
  EXPECT_NEAR(sparsity("random --sparsity 0.5 --seed 7"), 0.5, 0.01);
  EXPECT_NEAR(sparsity("spatial --share 0.5 --sink-frames 0"), 0.5, 0.01);
  EXPECT_NEAR(sparsity("temporal --share 0.25 --sink-frames 1"), 0.75, 0.01);
  EXPECT_NEAR(sparsity("pooled --share 0.25"), 0.75, 0.01);
  EXPECT_NEAR(sparsity("svg --share 0.25 --sampled-tiles 8"), 0.75, 0.01);
  // Tiles are frames: of the 64 pairs, the 22 that are 3, 5, 6 or 7 apart are too far.
  EXPECT_NEAR(sparsity("radial --decay 0.02 --window 1 --sink-frames 0"), 22.0 / 64, 1e-12);
}

TEST_F(ReplayCommand, OptionsOfOtherMethodsAreRefused) {
  const ToolRun done = run("--method random --share 0.5");
  EXPECT_EQ(done.exit_code, 2);
  EXPECT_TRUE(contains(done.err, "--share"));
  EXPECT_TRUE(contains(done.err, "not for random"));
  EXPECT_EQ(run("--seed 3").exit_code, 2);
  EXPECT_EQ(run("--method none").exit_code, 2);
}

TEST_F(ReplayCommand, AnalysesTheWeightsOfDenseAttention) {
  write([](TraceInfo&, std::vector<TraceCall>& calls) { calls.resize(3); });
  const ToolRun done =
      run_tool("replay '" + trace_ + "' --analyse --per-layer --json '" + json_ + "'");
  ASSERT_EQ(done.exit_code, 0) << done.err;
  EXPECT_EQ(lines_of(done.out, "transformer.blocks"), 3);
  EXPECT_EQ(lines_of(done.out, " %"), 4);  // the mean beside
  EXPECT_TRUE(contains(done.out, "< 1/100N"));
  const auto json = nlohmann::json::parse(std::ifstream(json_));
  ASSERT_EQ(json["calls"].size(), 3u);
  EXPECT_FALSE(json.contains("method"));
  for (const auto& call : json["calls"]) {
    ASSERT_EQ(call["heads"].size(), 1u);
    const auto& head = call["heads"][0];
    double share = 0, mass = 0;
    for (const char* part : {"large", "middling", "small"}) {
      share += head[part]["share"].get<double>();
      mass += head[part]["mass"].get<double>();
    }
    EXPECT_NEAR(share, 1, 1e-9);
    EXPECT_NEAR(mass, 1, 1e-4);
    EXPECT_GT(head["large"]["mass"], head["large"]["share"]);
    EXPECT_GE(head["rank"], 1);
    EXPECT_GE(head["rank_of_large"], 1);
    EXPECT_LE(head["rank"], 64);
  }
  EXPECT_EQ(run("--analyse", trace_).exit_code, 2);  // with tiles
  EXPECT_EQ(run_tool("replay '" + trace_ + "' --analyse --threshold -1").exit_code, 2);
}

TEST_F(ReplayCommand, MethodsOfVideosNeedToKnowTheVideo) {
  write([](TraceInfo& info, std::vector<TraceCall>&) { info.video.reset(); });
  ToolRun done = run("--method radial", trace_);
  EXPECT_EQ(done.exit_code, 1);
  EXPECT_TRUE(contains(done.err, "radial needs to know frames"));
  EXPECT_EQ(run("--method pooled", trace_).exit_code, 0);
  write([](TraceInfo& info, std::vector<TraceCall>&) { info.token_order = "1x8x8"; });
  done = run("--method spatial", trace_);
  EXPECT_EQ(done.exit_code, 1);
  EXPECT_TRUE(contains(done.err, "1x8x8"));
}

TEST_F(ReplayCommand, FailuresLeaveNoResults) {
  const auto refuse = [&](const std::string& arguments, const std::string& trace, const char* why) {
    const ToolRun done = run(arguments + " --json '" + json_ + "'", trace);
    EXPECT_EQ(done.exit_code, 1);
    EXPECT_TRUE(contains(done.err, why));
    EXPECT_FALSE(std::filesystem::exists(json_));
  };
  refuse("", SACCADE_TEST_DATA "/small.safetensors", "this is no trace");
  refuse("", SACCADE_TEST_DATA "/nothing", "nothing");
  refuse("--threshold 1", kDemoTrace, "threshold is 1");
  refuse("--mass-budget -1", kDemoTrace, "mass_budget is -1");
  refuse("--order strongest --reference lse", kDemoTrace, "changes rounding only");
  refuse("--skips-values --measure mean_mass", kDemoTrace, "skips_values leaves out weights");
  refuse("--thresholds -1,-2", kDemoTrace, "step");
}

}  // namespace
}  // namespace saccade::cli

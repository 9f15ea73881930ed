#include "tools/tool_run.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>

namespace saccade::cli {
namespace {

// What is reported, not how fast it is.
TEST(BenchCommand, WritesEveryMeasurement) {
  const std::string path = temporary_path("bench.json");
  const ToolRun run = run_tool(
      "bench --heads 2 --len 300 --dim 32,64 --sparsity 0,60 --repeats 2 --threads 2 "
      "--block-q 64 --json '" +
      path + "'");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(contains(run.out, "FMA peak"));
  EXPECT_FALSE(std::filesystem::exists(path + ".partial"));
  const auto json = nlohmann::json::parse(std::ifstream(path));
  std::filesystem::remove(path);

  EXPECT_TRUE(contains(json["command"].get<std::string>(), "--len 300"));
  EXPECT_EQ(json["threads"], 2);
  EXPECT_EQ(json["problem"]["block_q"], 64);
  EXPECT_EQ(json["results"][0]["length"], 300);
  EXPECT_GT(json["fma_peak_gflops"]["one_thread"], 0);
  EXPECT_GT(json["read_bandwidth_gbytes_per_second"], 0);
  // For each head_dim: attention in two passes, dense and at two sparsities; routing; three kernels
  // of SLA in two passes.
  ASSERT_EQ(json["results"].size(), 2u * (2u * 3u + 1u + 3u * 2u));
  for (const auto& result : json["results"]) {
    EXPECT_EQ(result["seconds"].size(), 2u);
    EXPECT_EQ(result["fma_rates"].size(), 2u);
    EXPECT_GT(result["gflops"], 0);
    EXPECT_GT(result["share_of_peak"], 0);
    EXPECT_GT(result["share_of_bandwidth"], 0);
    EXPECT_GT(result["speed_up"], 0);
  }
  const auto& dense = json["results"][0];
  EXPECT_TRUE(dense["sparsity"].is_null());
  EXPECT_EQ(dense["speed_up"], 1);
  EXPECT_TRUE(dense["efficiency"].is_null());
  EXPECT_EQ(json["results"][1]["sparsity"], 0);
  EXPECT_EQ(json["results"][2]["sparsity"], 0.6);  // of 5 x 5 tiles in each head
  EXPECT_EQ(json["results"][12]["kernel"], "sla");
  EXPECT_EQ(json["results"][12]["pass"], "backward");
}

TEST(BenchCommand, RefusalsOfTheLibraryAreFailures) {
  const ToolRun run = run_tool("bench --dim 20 --len 64");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(contains(run.err, "head_dim"));
}

TEST(BenchCommand, AnUnwritableFileFailsBeforeAnythingIsMeasured) {
  const ToolRun run = run_tool("bench --json /nonexistent/bench.json");
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_EQ(run.out, "");
  EXPECT_TRUE(contains(run.err, "/nonexistent/bench.json"));
}

}  // namespace
}  // namespace saccade::cli

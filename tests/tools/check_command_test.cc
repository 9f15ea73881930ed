#include "tools/tool_run.h"

#include <saccade/info.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace saccade::cli {
namespace {

// Every instruction set of this machine, not only the one in use.
TEST(CheckCommand, EveryCpuTargetPasses) {
  for (const std::string& target : cpu_targets()) {
    const ToolRun run = run_tool("check --quick --backend cpu", "SACCADE_CPU_TARGET=" + target);
    EXPECT_EQ(run.exit_code, 0) << target << "\n" << run.out << run.err;
    EXPECT_TRUE(contains(run.out, "attention_backward"));
  }
}

TEST(CheckCommand, JsonHasARowForEachQuantityAndDType) {
  const ToolRun run = run_tool("check --quick --json");
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
  const auto json = nlohmann::json::parse(run.out);
  EXPECT_EQ(json["passed"], true);
  EXPECT_EQ(json["seed"], 1);
  ASSERT_EQ(json["backends"].size(), 1u);
  EXPECT_EQ(json["backends"][0]["rows"].size(), 13u * 3u);
  for (const auto& row : json["backends"][0]["rows"]) {
    EXPECT_GT(row["problems"], 0) << row;
    EXPECT_LE(row["worst_error"], row["cap"]) << row;
  }
}

TEST(CheckCommand, OneCaseIsOneProblem) {
  const ToolRun run = run_tool("check --seed 7 --case 4 --json");
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
  const auto rows = nlohmann::json::parse(run.out)["backends"][0]["rows"];
  EXPECT_EQ(rows.size(), 13u);
  for (const auto& row : rows) {
    EXPECT_EQ(row["problems"], 1) << row;
    EXPECT_EQ(row["dtype"], "f16") << row;
  }
}

}  // namespace
}  // namespace saccade::cli

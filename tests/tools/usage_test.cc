#include "tools/tool_run.h"

#include <saccade/info.h>

#include <gtest/gtest.h>

#include <string>

namespace saccade::cli {
namespace {

TEST(Usage, HelpNamesEverySubcommand) {
  const ToolRun run = run_tool("--help");
  EXPECT_EQ(run.exit_code, 0);
  for (const char* name : {"info", "check", "bench", "inspect", "schedule", "calibrate"})
    EXPECT_TRUE(contains(run.out, name));
}

TEST(Usage, VersionIsPrinted) {
  const ToolRun run = run_tool("--version");
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.out, std::string(version()) + "\n");
}

TEST(Usage, BadCommandLinesExitWithTwoAndSayWhy) {
  const struct {
    const char* arguments;
    const char* message;  // part of it
  } kBadCommandLines[] = {
      {"", "subcommand is required"},
      {"infos", "infos"},
      {"info --xml", "--xml"},
      {"info extra", "extra"},
      {"check --backend gpu", "gpu not in {cpu}"},
      {"check --backend reference", "reference not in {cpu}"},
      {"check --seed many", "many"},
      {"check --case -1", "-1 not in range 0"},
      {"bench --dtype f64", "f64 not in {f32,f16,bf16}"},
      {"bench --block-q 32", "32 not in {64,128}"},
      {"bench --sparsity 50,100", "100 not in range 0"},
      {"bench --len 0", "0 not in range 1"},
      {"bench --threads 0", "0 not in range 1"},
      {"bench --repeats", "--repeats"},
      {"inspect", "file is required"},
      {"inspect a b", "b"},
      {"calibrate", "trace is required"},
      {"calibrate /missing --json x", "/missing"},
      {"calibrate /dev/null", "--json is required"},
      {"schedule --treshold -1", "--treshold"},
      {"schedule --threshold much", "much"},
      {"schedule --steps 0", "0 not in range 1"},
      {"schedule --sigmas 1,0 --flow-shift 3", "--flow-shift"},
      {"schedule --from missing.json", "missing.json"},
      {"schedule --must-do-keys 3", "'3' does not have the form BEGIN:END"},
      {"schedule --must-do-keys 3:x", "'x' is no token"},
      {"schedule --layer-thresholds a", "'a' does not have the form PATTERN=THRESHOLD"},
      {"schedule --layer-thresholds a=steps:-1,,-2", "'' is no number"},
      {"schedule --fingerprint heads=many", "'many' is no number"},
  };
  for (const auto& [arguments, message] : kBadCommandLines) {
    SCOPED_TRACE(arguments);
    const ToolRun run = run_tool(arguments);
    EXPECT_EQ(run.exit_code, 2);
    EXPECT_EQ(run.out, "");
    EXPECT_TRUE(contains(run.err, message));
  }
}

}  // namespace
}  // namespace saccade::cli

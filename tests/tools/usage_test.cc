#include "tools/tool_run.h"

#include <saccade/info.h>

#include <gtest/gtest.h>

#include <string>

namespace saccade::cli {
namespace {

TEST(Usage, HelpNamesEverySubcommand) {
  const ToolRun run = run_tool("--help");
  EXPECT_EQ(run.exit_code, 0);
  for (const char* name : {"info", "check", "bench"}) EXPECT_TRUE(contains(run.out, name));
}

TEST(Usage, VersionIsPrinted) {
  const ToolRun run = run_tool("--version");
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_EQ(run.out, std::string(version()) + "\n");
}

struct BadCommandLine {
  const char* arguments;
  const char* message;  // part of it
};

class BadCommandLines : public testing::TestWithParam<BadCommandLine> {};

TEST_P(BadCommandLines, ExitWithTwoAndSayWhy) {
  const ToolRun run = run_tool(GetParam().arguments);
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_EQ(run.out, "");
  EXPECT_TRUE(contains(run.err, GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Usage,
    BadCommandLines,
    testing::Values(BadCommandLine{"", "subcommand is required"},
                    BadCommandLine{"infos", "subcommand is required"},
                    BadCommandLine{"info --xml", "--xml"},
                    BadCommandLine{"info extra", "extra"},
                    BadCommandLine{"check --backend gpu", "gpu not in {cpu}"},
                    BadCommandLine{"check --backend reference", "reference not in {cpu}"},
                    BadCommandLine{"check --seed many", "many"},
                    BadCommandLine{"check --case -1", "-1 not in range 0"},
                    BadCommandLine{"bench --dtype f64", "f64 not in {f32,f16,bf16}"},
                    BadCommandLine{"bench --block-q 32", "32 not in {64,128}"},
                    BadCommandLine{"bench --sparsity 50,100", "100 not in range 0"},
                    BadCommandLine{"bench --len 0", "0 not in range 1"},
                    BadCommandLine{"bench --threads 0", "0 not in range 1"},
                    BadCommandLine{"bench --repeats", "--repeats"}));

}  // namespace
}  // namespace saccade::cli

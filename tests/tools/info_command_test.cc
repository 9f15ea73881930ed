#include "tools/tool_run.h"

#include <saccade/info.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace saccade::cli {
namespace {

TEST(InfoCommand, JsonSaysWhatTheLibrarySays) {
  const ToolRun run = run_tool("info --json", "SACCADE_NUM_THREADS=3 SACCADE_BACKEND=reference");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto info = nlohmann::json::parse(run.out);
  EXPECT_EQ(info["version"], version());
  EXPECT_EQ(info["commit"], commit());
  EXPECT_EQ(info["threads"], 3);
  EXPECT_EQ(info["default_backend"], "reference");
  EXPECT_EQ(info["environment"]["SACCADE_NUM_THREADS"], "3");
  EXPECT_EQ(info["cpu_targets"], nlohmann::json(cpu_targets()));
  ASSERT_EQ(info["backends"].size(), backends().size());
  for (std::size_t i = 0; i < backends().size(); ++i) {
    EXPECT_EQ(info["backends"][i]["name"], backends()[i].name);
    EXPECT_EQ(info["backends"][i]["available"], backends()[i].available);
  }
}

TEST(InfoCommand, UnsetVariablesAreNull) {
  const ToolRun run = run_tool("info --json", "env -u SACCADE_NUM_THREADS");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(nlohmann::json::parse(run.out)["environment"]["SACCADE_NUM_THREADS"].is_null());
}

TEST(InfoCommand, TextNamesEveryBackendAndVariable) {
  const ToolRun run = run_tool("info");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const BackendInfo& backend : backends()) EXPECT_TRUE(contains(run.out, backend.name));
  for (const char* name : {"SACCADE_BACKEND", "SACCADE_CPU_TARGET", "SACCADE_NUM_THREADS"}) {
    EXPECT_TRUE(contains(run.out, name));
  }
}

TEST(InfoCommand, BadSettingsFailWithTheLibrarysMessage) {
  const ToolRun bad_backend = run_tool("info", "SACCADE_BACKEND=abacus");
  EXPECT_EQ(bad_backend.exit_code, 1);
  EXPECT_TRUE(contains(bad_backend.err, "abacus"));
  const ToolRun bad_threads = run_tool("info", "SACCADE_NUM_THREADS=none");
  EXPECT_EQ(bad_threads.exit_code, 1);
  EXPECT_TRUE(contains(bad_threads.err, "SACCADE_NUM_THREADS"));
}

}  // namespace
}  // namespace saccade::cli

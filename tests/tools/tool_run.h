#pragma once

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace saccade::cli {

struct ToolRun {
  int exit_code;
  std::string out;
  std::string err;
};

// Runs the tool with these arguments, `environment` ("NAME=value ...") added to ours. Both are read
// by the shell.
ToolRun run_tool(const std::string& arguments, const std::string& environment = "");

// Whether `text` contains `part`; shows the text where it does not.
testing::AssertionResult contains(std::string_view text, std::string_view part);

// A path for a file of the running test alone.
std::string temporary_path(const std::string& name);

}  // namespace saccade::cli

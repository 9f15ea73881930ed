#include "tools/tool_run.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace saccade::cli {
namespace {

std::string take(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  std::filesystem::remove(path);
  return text.str();
}

}  // namespace

testing::AssertionResult contains(std::string_view text, std::string_view part) {
  if (text.find(part) != std::string_view::npos) return testing::AssertionSuccess();
  return testing::AssertionFailure() << '"' << part << "\" is not in \"" << text << '"';
}

std::string temporary_path(const std::string& name) {
  return testing::TempDir() + "saccade_" + std::to_string(getpid()) + "_" + name;
}

ToolRun run_tool(const std::string& arguments, const std::string& environment) {
  const std::string out = temporary_path("stdout");
  const std::string err = temporary_path("stderr");
  const std::string command =
      environment + " '" SACCADE_TOOL "' " + arguments + " >'" + out + "' 2>'" + err + "'";
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, take(out), take(err)};
}

}  // namespace saccade::cli

#include "commands.h"

#include <saccade/info.h>

#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <span>
#include <string>

namespace saccade::cli {
namespace {

int run(int argc, char** argv) {
  CLI::App app{
      "Sparse attention for diffusion transformers: what this machine has, whether it is "
      "right, how fast it is.",
      "saccade"};
  app.set_version_flag("--version", std::string(version()));
  // Not require_subcommand(1): that would answer a misspelt one with "a subcommand is required".
  app.require_subcommand(0, 1);
  app.callback([&app] {
    if (app.get_subcommands().empty()) throw CLI::RequiredError("A subcommand");
  });
  Invocation invocation;
  for (const char* argument : std::span(argv, argc)) {
    if (!invocation.command_line.empty()) invocation.command_line += ' ';
    invocation.command_line += argument;
  }
  add_info_command(app, invocation);
  add_check_command(app, invocation);
  add_bench_command(app, invocation);
  add_inspect_command(app, invocation);
  add_replay_command(app, invocation);
  add_schedule_command(app, invocation);
  add_calibrate_command(app, invocation);
  try {
    app.parse(argc, argv);
    return invocation.exit_code;
  } catch (const CLI::ParseError& result) {  // --help and --version come this way too
    return app.exit(result) == kSuccess ? kSuccess : kUsageError;
  }
}

}  // namespace
}  // namespace saccade::cli

int main(int argc, char** argv) {
  try {
    return saccade::cli::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "saccade: {}\n", error.what());
    return saccade::cli::kFailure;
  }
}

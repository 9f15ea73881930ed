#pragma once

#include <CLI/CLI.hpp>

#include <string>

namespace saccade::cli {

// Exit codes of the tool.
inline constexpr int kSuccess = 0;
inline constexpr int kFailure = 1;     // a check failed, or the library refused
inline constexpr int kUsageError = 2;  // the command line makes no sense

struct Invocation {
  std::string command_line;
  int exit_code = kSuccess;  // set by the subcommand that ran
};

// Each adds one subcommand to `app`, which runs when the arguments have been parsed and reports
// through `invocation`; it must outlive `app`.
void add_info_command(CLI::App& app, Invocation& invocation);
void add_check_command(CLI::App& app, Invocation& invocation);
void add_bench_command(CLI::App& app, Invocation& invocation);
void add_inspect_command(CLI::App& app, Invocation& invocation);
void add_replay_command(CLI::App& app, Invocation& invocation);
void add_schedule_command(CLI::App& app, Invocation& invocation);
void add_calibrate_command(CLI::App& app, Invocation& invocation);

}  // namespace saccade::cli

#pragma once

#include "replay/method.h"
#include "schedule_flags.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace saccade::cli {

// The method that a command line describes, with its options.
class MethodFlags {
 public:
  // Adds --method, the options of all methods, and the flags of a schedule. They are read into this
  // object, which must outlive the parsing.
  explicit MethodFlags(CLI::App& command);
  MethodFlags(const MethodFlags&) = delete;
  MethodFlags& operator=(const MethodFlags&) = delete;

  // For after the parsing. Throws CLI::ValidationError for an option of another method, and
  // InvalidArgument for what the library refuses, or if the method needs to know the video and the
  // trace does not.
  std::unique_ptr<Method> method(const Trace& trace) const;

  // Method, tile size and the options of the method, for people and for programs.
  std::string description() const;
  nlohmann::ordered_json json() const;

 private:
  template <typename Value>
  CLI::Option* add(CLI::App& command,
                   const char* flag,
                   Value& value,
                   const char* help,
                   std::vector<std::string> methods);
  void add_rule(CLI::App& command);
  void add_baselines(CLI::App& command);
  bool is_of(const CLI::Option& option) const;
  void require_own_options() const;
  std::vector<std::pair<std::string, std::string>> own_options() const;  // names and values

  using ProtectedChoice = std::function<baselines::ProtectedTokens()>;
  TileChoice choice(const Trace& trace, const lite::Schedule& schedule) const;
  TileChoice pooled_choice(const Trace& trace, ProtectedChoice tokens) const;
  TileChoice svg_choice(const Trace& trace, TileChoice spatial, TileChoice temporal) const;

  ScheduleFlags schedule_flags_;
  std::string method_ = "lite";
  TileSize tile_;
  std::string measure_ = "largest_weight", reference_ = "running", order_ = "linear";
  double mass_budget_ = 0;  // counts where its flag is given
  std::int64_t reprobe_period_ = 0;
  bool skips_values_ = false;
  double sparsity_ = 0.5, share_ = 0.25, mass_ = 0, decay_ = 1;
  std::int64_t window_ = 128, sink_frames_ = 1, sampled_tiles_ = 16, rows_per_tile_ = 4;
  std::uint64_t seed_ = 0;
  std::vector<std::pair<CLI::Option*, std::vector<std::string>>> options_;  // and their methods
  CLI::Option* budget_option_ = nullptr;
};

}  // namespace saccade::cli

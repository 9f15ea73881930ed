#pragma once

#include <saccade/lite_schedule.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <string>

namespace saccade::cli {

// The schedule that a command line describes: that of a file, or the defaults, with the fields
// replaced that have a flag.
class ScheduleFlags {
 public:
  // Adds a flag for each field, and --from FILE. The flags are read into this object, which must
  // outlive the parsing.
  explicit ScheduleFlags(CLI::App& command);
  ScheduleFlags(const ScheduleFlags&) = delete;
  ScheduleFlags& operator=(const ScheduleFlags&) = delete;

  // For after the parsing. Throws InvalidArgument for what the library refuses.
  lite::Schedule schedule() const;

 private:
  template <typename Value, typename ToJson>
  CLI::Option* add(CLI::App& command, std::string field, const char* help, ToJson to_json);
  void add_thresholds(CLI::App& command);
  void add_dense(CLI::App& command);
  void add_ranges(CLI::App& command);

  std::string file_;
  nlohmann::json fields_ = nlohmann::json::object();  // those with a flag, as in a schedule's JSON
};

}  // namespace saccade::cli

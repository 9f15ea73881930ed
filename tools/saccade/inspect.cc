#include "commands.h"
#include "input_file.h"
#include "inspect/schedule.h"
#include "inspect/state.h"
#include "inspect/statistics.h"
#include "inspect/text.h"
#include "inspect/trace.h"

#include <saccade/safetensors.h>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>

namespace saccade::cli {
namespace {

struct InspectOptions {
  std::string path;
  bool no_values = false;
  bool tensors = false;
  bool as_json = false;
};

struct Row {
  std::string name;
  StoredTensor tensor;
  std::optional<Statistics> statistics;
};

std::vector<Row> describe_tensors(const SafetensorsFile& file, bool no_values) {
  std::vector<Row> rows;
  for (const auto& [name, tensor] : file.tensors()) {
    rows.push_back({name, tensor, no_values ? std::nullopt : measure_values(tensor)});
  }
  return rows;
}

std::string shape_text(const StoredTensor& tensor) {
  return fmt::format("[{}]", fmt::join(tensor.shape, ", "));
}

void print_table(const std::vector<Row>& rows) {
  std::size_t name_width = 4, shape_width = 5;
  for (const Row& row : rows) {
    name_width = std::max(name_width, printable(row.name).size());
    shape_width = std::max(shape_width, shape_text(row.tensor).size());
  }
  fmt::print("{:<{}}  {:<11}  {:<{}}  {:>12}  {:>11}  {:>11}  {:>11}  {:>6}\n", "name", name_width,
             "dtype", "shape", shape_width, "bytes", "min", "max", "mean", "NaN");
  for (const Row& row : rows) {
    fmt::print("{:<{}}  {:<11}  {:<{}}  {:>12}", printable(row.name), name_width,
               name_of(row.tensor.dtype), shape_text(row.tensor), shape_width,
               row.tensor.bytes.size());
    if (const std::optional<Statistics>& values = row.statistics) {
      fmt::print("  {:>11.5g}  {:>11.5g}  {:>11.5g}  {:>6}", values->min, values->max, values->mean,
                 values->nan_count);
    }
    fmt::print("\n");
  }
}

void print(const SafetensorsFile& file, const std::vector<Row>& rows) {
  const std::size_t bytes = std::accumulate(
      rows.begin(), rows.end(), std::size_t{0},
      [](std::size_t sum, const Row& row) { return sum + row.tensor.bytes.size(); });
  print_table(rows);
  fmt::print("\n{} tensors, {} bytes\n", rows.size(), bytes);
  if (!file.metadata().empty()) fmt::print("\nmetadata\n");
  for (const auto& [key, value] : file.metadata()) {
    fmt::print("  {}: {}\n", printable(key), printable(value));
  }
}

// A value that JSON cannot hold becomes null.
nlohmann::ordered_json to_json(const SafetensorsFile& file, const std::vector<Row>& rows) {
  nlohmann::ordered_json json = {{"metadata", nlohmann::ordered_json::object()},
                                 {"tensors", nlohmann::ordered_json::array()}};
  for (const auto& [key, value] : file.metadata()) json["metadata"][key] = value;
  for (const Row& row : rows) {
    nlohmann::ordered_json tensor = {{"name", row.name},
                                     {"dtype", name_of(row.tensor.dtype)},
                                     {"shape", row.tensor.shape},
                                     {"bytes", row.tensor.bytes.size()}};
    if (const std::optional<Statistics>& values = row.statistics) {
      tensor["min"] = values->min;
      tensor["max"] = values->max;
      tensor["mean"] = values->mean;
      tensor["nan"] = values->nan_count;
    }
    json["tensors"].push_back(tensor);
  }
  return json;
}

bool is_schedule(const std::string& path) {
  return std::filesystem::is_regular_file(path) && is_json_object(path);
}

void inspect_schedule(const std::string& text, const InspectOptions& options) {
  const lite::Schedule schedule = lite::schedule_from_json(text);
  fmt::print("{}", options.as_json ? lite::to_json(schedule) : describe(schedule));
}

void inspect_tensors(const SafetensorsFile& file, const InspectOptions& options) {
  const std::vector<Row> rows = describe_tensors(file, options.no_values);
  if (options.as_json) {
    fmt::print("{}\n", to_json(file, rows).dump(2));
  } else {
    print(file, rows);
  }
}

void run_inspect(const InspectOptions& options) {
  if (is_schedule(options.path)) return inspect_schedule(read_file(options.path), options);
  const SafetensorsFile file = SafetensorsFile::open(options.path);
  if (options.as_json || options.tensors) return inspect_tensors(file, options);
  if (is_trace(file)) {
    fmt::print("{}", describe(Trace::open(options.path)));
  } else if (is_state(file)) {
    fmt::print("{}", describe_state(file));
  } else {
    inspect_tensors(file, options);
  }
}

}  // namespace

void add_inspect_command(CLI::App& app, Invocation&) {
  CLI::App* command = app.add_subcommand(
      "inspect", "Show what a file holds: a schedule, a state, a trace, or any tensors");
  const auto options = std::make_shared<InspectOptions>();
  command->add_option("file", options->path, "The file")->required();
  command->add_flag("--tensors", options->tensors,
                    "The tensors of a state or trace, as of any other file");
  command->add_flag("--no-values", options->no_values, "Read the header only, not the elements");
  command->add_flag("--json", options->as_json, "Print JSON");
  command->callback([options] { run_inspect(*options); });
}

}  // namespace saccade::cli

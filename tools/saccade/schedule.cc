#include "commands.h"
#include "schedule_flags.h"

#include <saccade/error.h>
#include <saccade/lite_schedule.h>
#include <saccade/output_file.h>

#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace saccade::cli {
namespace {

constexpr int kMostSteps = 10'000;
constexpr int kMostLayers = 10'000;

struct ScheduleOptions {
  explicit ScheduleOptions(CLI::App& command) : flags(command) {}

  ScheduleFlags flags;
  std::vector<std::string> layers;
  std::int64_t steps = 0;  // 0 = as the schedule says
  std::vector<double> sigmas;
  std::optional<double> flow_shift;
  std::int64_t heads = 0;
  std::int64_t length = 0;
  std::string json_path;
};

// "blocks.{0..2}.attn" is blocks.0.attn, blocks.1.attn and blocks.2.attn.
std::vector<std::string> expanded(const std::string& layer) {
  const std::size_t open = layer.find('{'), dots = layer.find("..", open),
                    close = layer.find('}', dots);
  if (open == std::string::npos || close == std::string::npos) return {layer};
  int first = 0, last = 0;
  if (!CLI::detail::lexical_cast(layer.substr(open + 1, dots - open - 1), first) ||
      !CLI::detail::lexical_cast(layer.substr(dots + 2, close - dots - 2), last) || first < 0 ||
      last < first || last - first >= kMostLayers) {
    throw InvalidArgument(fmt::format(
        "--layers has '{}', but braces must hold FIRST..LAST, ascending, at most {} of them", layer,
        kMostLayers));
  }
  std::vector<std::string> layers;
  for (int i = first; i <= last; ++i) {
    layers.push_back(layer.substr(0, open) + std::to_string(i) + layer.substr(close + 1));
  }
  return layers;
}

// Those of a flow-matching scheduler: evenly spaced noise levels, shifted towards 1.
std::vector<double> flow_sigmas(std::int64_t steps, double shift) {
  std::vector<double> sigmas;
  for (std::int64_t step = 0; step < steps; ++step) {
    const double level = 1 - static_cast<double>(step) / static_cast<double>(steps);
    sigmas.push_back(shift * level / (1 + (shift - 1) * level));
  }
  return sigmas;
}

lite::Generation generation_of(const ScheduleOptions& options, const lite::Schedule& schedule) {
  lite::Generation generation{.sigmas = options.sigmas,
                              .num_steps = options.steps,
                              .heads = options.heads,
                              .length = options.length};
  for (const std::string& layer : options.layers) {
    for (std::string& path : expanded(layer)) generation.layers.push_back(std::move(path));
  }
  const bool has_patterns = !schedule.dense_layers.empty() || !schedule.layer_thresholds.empty();
  if (!generation.layers.empty()) {
    lite::require_layers(schedule, generation.layers);
  } else if (has_patterns) {
    throw InvalidArgument("the schedule has patterns of layers; give the paths with --layers");
  } else {
    generation.layers = {"every layer"};
  }
  if (options.flow_shift) generation.sigmas = flow_sigmas(options.steps, *options.flow_shift);
  return generation;
}

void run_schedule(const ScheduleOptions& options) {
  const lite::Schedule schedule = options.flags.schedule();
  const std::string text = lite::to_text(lite::resolve(schedule, generation_of(options, schedule)));
  if (!options.json_path.empty()) {
    OutputFile file(options.json_path);
    file.append(lite::to_json(schedule));
    file.commit();
  }
  fmt::print("{}", text);
}

}  // namespace

void add_schedule_command(CLI::App& app, Invocation&) {
  CLI::App* command =
      app.add_subcommand("schedule", "Make a schedule of LiteAttention, check it and show it");
  const auto options = std::make_shared<ScheduleOptions>(*command);
  command
      ->add_option("--layers", options->layers,
                   "Paths of the layers to show; blocks.{0..39}.attn1 is 40 of them")
      ->delimiter(',');
  CLI::Option* steps =
      command
          ->add_option("--steps", options->steps, "Steps to show (default: those of the schedule)")
          ->check(CLI::Range(1, kMostSteps));
  CLI::Option* sigmas =
      command->add_option("--sigmas", options->sigmas, "Sigma of each step")->delimiter(',');
  command
      ->add_option("--flow-shift", options->flow_shift,
                   "Take the sigmas of a flow-matching scheduler with this shift")
      ->check(CLI::PositiveNumber)
      ->excludes(sigmas)
      ->needs(steps);
  command->add_option("--heads", options->heads, "Query heads of a layer")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--length", options->length, "Tokens of the longer of queries and keys")
      ->check(CLI::PositiveNumber);
  command->add_option("--json", options->json_path, "Write the schedule to this file too");
  command->callback([options] { run_schedule(*options); });
}

}  // namespace saccade::cli

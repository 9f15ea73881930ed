#include "core/nearest_name.h"
#include "methods/lite/layer_pattern.h"
#include "methods/lite/valid_schedule.h"

#include <saccade/error.h>
#include <saccade/lite_schedule.h>

#include <fmt/format.h>

#include <algorithm>
#include <limits>

namespace saccade::lite {
namespace {

constexpr double kNeverMarks = -std::numeric_limits<double>::infinity();

void require_step(const Schedule& schedule, std::int64_t step) {
  const std::int64_t covered = covered_steps(schedule);
  if (step >= 0 && (covered == 0 || step < covered)) return;
  throw InvalidArgument(
      covered > 0
          ? fmt::format("step is {}, but the schedule covers steps 0 to {}", step, covered - 1)
          : fmt::format("step is {}, but must be at least 0", step));
}

bool is_short(const Schedule& schedule, const Call& call) {
  if (schedule.min_length == 0) return false;
  if (call.length < 1) {
    throw InvalidArgument(fmt::format(
        "the schedule has min_length {}, but the length of the call is {}; give its tokens",
        schedule.min_length, call.length));
  }
  return call.length < schedule.min_length;
}

bool is_dense_sigma(const Schedule& schedule, const std::optional<double>& sigma) {
  if (!schedule.dense_first_sigma && !schedule.dense_last_sigma) return false;
  if (!sigma) {
    throw InvalidArgument(fmt::format(
        "the schedule has dense_{}_sigma, but the call has no sigma; give its timestep divided by "
        "the number of training timesteps",
        schedule.dense_first_sigma ? "first" : "last"));
  }
  if (!(*sigma >= 0 && *sigma <= 1)) {
    throw InvalidArgument(fmt::format("sigma is {}, but must be in [0, 1]", *sigma));
  }
  return (schedule.dense_first_sigma && *sigma >= *schedule.dense_first_sigma) ||
         (schedule.dense_last_sigma && *sigma < *schedule.dense_last_sigma);
}

bool is_dense_step(const Schedule& schedule, const Call& call) {
  const bool is_last =
      schedule.num_steps > 0 && call.step >= schedule.num_steps - schedule.dense_last_steps;
  const bool is_dense_by_sigma = is_dense_sigma(schedule, call.sigma);
  return call.step < schedule.dense_first_steps || is_last || is_dense_by_sigma;
}

std::vector<double> of_heads(const std::vector<double>& thresholds,
                             const Call& call,
                             const std::string& field) {
  if (static_cast<std::int64_t>(thresholds.size()) != call.heads) {
    throw InvalidArgument(fmt::format("{} has {} entries, but the call has {} query heads", field,
                                      thresholds.size(), call.heads));
  }
  return thresholds;
}

std::vector<double> thresholds_of(const Schedule& schedule, const Call& call) {
  for (std::size_t i = schedule.layer_thresholds.size(); i-- > 0;) {
    const LayerThresholds& entry = schedule.layer_thresholds[i];
    if (!matches(entry.layers, call.layer)) continue;
    if (entry.threshold) return {*entry.threshold};
    if (!entry.thresholds.empty()) return {entry.thresholds[call.step]};
    if (!entry.step_head_thresholds.empty()) {
      return of_heads(entry.step_head_thresholds[call.step], call,
                      fmt::format("layer_thresholds[{}].step_head_thresholds[{}]", i, call.step));
    }
    return of_heads(entry.head_thresholds, call,
                    fmt::format("layer_thresholds[{}].head_thresholds", i));
  }
  if (!schedule.thresholds.empty()) return {schedule.thresholds[call.step]};
  if (!schedule.head_thresholds.empty()) {
    return of_heads(schedule.head_thresholds, call, "head_thresholds");
  }
  return {schedule.threshold};
}

void require_match_of(const std::string& pattern,
                      const std::string& field,
                      std::span<const std::string> layers) {
  const auto is_matched = [&](const std::string& layer) { return matches(pattern, layer); };
  if (std::ranges::any_of(layers, is_matched)) return;
  throw InvalidArgument(
      fmt::format("{} is '{}', which matches none of the {} layers; nearest: '{}'", field, pattern,
                  layers.size(), nearest_name(pattern, layers)));
}

}  // namespace

StepPlan plan_valid_step(const Schedule& schedule, const Call& call) {
  require_step(schedule, call.step);
  if (is_short(schedule, call) || is_dense_layer(schedule, call.layer))
    return {true, {kNeverMarks}};
  return {is_dense_step(schedule, call), thresholds_of(schedule, call)};
}

StepPlan plan_step(const Schedule& schedule, const Call& call) {
  validate(schedule);
  return plan_valid_step(schedule, call);
}

bool is_dense_layer(const Schedule& schedule, std::string_view layer) {
  return std::ranges::any_of(schedule.dense_layers,
                             [&](const std::string& pattern) { return matches(pattern, layer); });
}

void require_layers(const Schedule& schedule, std::span<const std::string> layers) {
  validate(schedule);
  if (layers.empty()) throw InvalidArgument("there are no layers for the schedule to speak of");
  for (std::size_t i = 0; i < schedule.dense_layers.size(); ++i) {
    require_match_of(schedule.dense_layers[i], fmt::format("dense_layers[{}]", i), layers);
  }
  for (std::size_t i = 0; i < schedule.layer_thresholds.size(); ++i) {
    require_match_of(schedule.layer_thresholds[i].layers,
                     fmt::format("layer_thresholds[{}].layers", i), layers);
  }
}

}  // namespace saccade::lite

#include "ops.h"
#include "tensor_views.h"

#include <saccade/error.h>
#include <saccade/lite_schedule.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <string_view>

namespace saccade::python {
namespace {

lite::Schedule schedule_of(const Tensor& bytes) {
  return lite::schedule_from_json(text_of(bytes, "schedule"));
}

std::vector<std::string> layers_of(const Tensor& bytes) {
  try {
    return nlohmann::json::parse(text_of(bytes, "layers")).get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception& error) {
    throw InvalidArgument(fmt::format("layers must be a JSON list of texts: {}", error.what()));
  }
}

lite::Fingerprint fingerprint_of(const Tensor& bytes) {
  return schedule_of(bytes).fingerprint.value_or(lite::Fingerprint{});
}

// JSON has no -inf.
nlohmann::json number(double value) {
  return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(fmt::format("{}", value));
}

nlohmann::json described(const lite::StepPlan& plan) {
  nlohmann::json thresholds = nlohmann::json::array();
  for (const double threshold : plan.thresholds) thresholds.push_back(number(threshold));
  return {plan.is_dense, thresholds};
}

}  // namespace

std::string lite_schedule_json(const Tensor& schedule) {
  return lite::to_json(schedule_of(schedule));
}

std::tuple<bool, std::vector<double>> lite_plan_step(const Tensor& schedule,
                                                     std::int64_t step,
                                                     std::optional<double> sigma,
                                                     const std::string& layer,
                                                     std::int64_t heads,
                                                     std::int64_t length) {
  const lite::StepPlan plan = lite::plan_step(
      schedule_of(schedule),
      {.step = step, .sigma = sigma, .layer = layer, .heads = heads, .length = length});
  return {plan.is_dense, plan.thresholds};
}

std::string lite_schedule_table(const Tensor& schedule,
                                const Tensor& layers,
                                const std::vector<double>& sigmas,
                                std::int64_t num_steps,
                                std::int64_t heads,
                                std::int64_t length) {
  const lite::ScheduleTable table =
      lite::resolve(schedule_of(schedule), {.layers = layers_of(layers),
                                            .sigmas = sigmas,
                                            .num_steps = num_steps,
                                            .heads = heads,
                                            .length = length});
  nlohmann::json json = {{"text", lite::to_text(table)}, {"plans", nlohmann::json::array()}};
  for (const std::vector<lite::StepPlan>& steps : table.plans) {
    nlohmann::json& row = json["plans"].emplace_back(nlohmann::json::array());
    for (const lite::StepPlan& plan : steps) row.push_back(described(plan));
  }
  return json.dump();
}

std::string lite_dense_layers(const Tensor& schedule, const Tensor& layers) {
  const lite::Schedule given = schedule_of(schedule);
  const std::vector<std::string> paths = layers_of(layers);
  lite::require_layers(given, paths);
  nlohmann::json dense = nlohmann::json::array();
  for (const std::string& path : paths) {
    if (lite::is_dense_layer(given, path)) dense.push_back(path);
  }
  return dense.dump();
}

void lite_require_match(const Tensor& schedule, const Tensor& other) {
  lite::require_match(fingerprint_of(schedule), fingerprint_of(other));
}

}  // namespace saccade::python

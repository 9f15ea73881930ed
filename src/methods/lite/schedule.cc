#include <saccade/error.h>
#include <saccade/lite.h>

#include <fmt/format.h>

#include <cmath>

namespace saccade::lite {
namespace {

void require_threshold(double threshold, const std::string& name) {
  if (std::isnan(threshold) || threshold > 0) {
    throw InvalidArgument(fmt::format(
        "{} is {}, but must be at most 0 (log2 units; -inf drops nothing)", name, threshold));
  }
}

void require_count(std::int64_t count, const char* name) {
  if (count < 0)
    throw InvalidArgument(fmt::format("{} is {}, but must be at least 0", name, count));
}

}  // namespace

void validate(const Schedule& schedule) {
  require_threshold(schedule.threshold, "threshold");
  for (std::size_t i = 0; i < schedule.thresholds.size(); ++i) {
    require_threshold(schedule.thresholds[i], fmt::format("thresholds[{}]", i));
  }
  require_count(schedule.num_steps, "num_steps");
  require_count(schedule.dense_first_steps, "dense_first_steps");
  require_count(schedule.dense_last_steps, "dense_last_steps");
  if (schedule.dense_last_steps > 0 && schedule.num_steps == 0) {
    throw InvalidArgument(
        fmt::format("dense_last_steps is {}, but num_steps is unknown (0); give num_steps as well",
                    schedule.dense_last_steps));
  }
  const auto steps = static_cast<std::int64_t>(schedule.thresholds.size());
  if (steps > 0 && schedule.num_steps > 0 && steps != schedule.num_steps) {
    throw InvalidArgument(fmt::format(
        "there are {} thresholds for {} steps; give one for each step", steps, schedule.num_steps));
  }
}

StepPlan plan_step(const Schedule& schedule, std::int64_t step) {
  validate(schedule);
  const auto thresholds = static_cast<std::int64_t>(schedule.thresholds.size());
  const std::int64_t limit = schedule.num_steps > 0 ? schedule.num_steps : thresholds;
  if (step < 0 || (limit > 0 && step >= limit)) {
    throw InvalidArgument(
        limit > 0
            ? fmt::format("step is {}, but the schedule covers steps 0 to {}", step, limit - 1)
            : fmt::format("step is {}, but must be at least 0", step));
  }
  const bool is_last =
      schedule.num_steps > 0 && step >= schedule.num_steps - schedule.dense_last_steps;
  return {.is_dense = step < schedule.dense_first_steps || is_last,
          .thresholds = {thresholds > 0 ? schedule.thresholds[step] : schedule.threshold}};
}

}  // namespace saccade::lite

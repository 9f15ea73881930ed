#include "methods/lite/valid_schedule.h"

#include <saccade/error.h>

#include <fmt/format.h>

namespace saccade::lite {
namespace {

std::int64_t steps_of(const Schedule& schedule, const Generation& generation) {
  const auto listed = static_cast<std::int64_t>(generation.sigmas.size());
  if (generation.num_steps < 0) {
    throw InvalidArgument(
        fmt::format("num_steps is {}, but must be at least 0", generation.num_steps));
  }
  if (listed > 0 && generation.num_steps > 0 && listed != generation.num_steps) {
    throw InvalidArgument(fmt::format("there are {} sigmas for {} steps; give one for each step",
                                      listed, generation.num_steps));
  }
  if (listed > 0) return listed;
  const std::int64_t steps =
      generation.num_steps > 0 ? generation.num_steps : covered_steps(schedule);
  if (steps == 0) {
    throw InvalidArgument(
        "the number of steps is unknown; give num_steps or the sigmas of the steps");
  }
  return steps;
}

}  // namespace

ScheduleTable resolve(const Schedule& schedule, const Generation& generation) {
  validate(schedule);
  if (generation.layers.empty()) throw InvalidArgument("there are no layers to make a table of");
  const std::int64_t steps = steps_of(schedule, generation);
  ScheduleTable table{.layers = generation.layers, .sigmas = generation.sigmas, .plans = {}};
  for (const std::string& layer : generation.layers) {
    std::vector<StepPlan>& plans = table.plans.emplace_back();
    for (std::int64_t step = 0; step < steps; ++step) {
      Call call{.step = step,
                .sigma = {},
                .layer = layer,
                .heads = generation.heads,
                .length = generation.length};
      if (!generation.sigmas.empty()) call.sigma = generation.sigmas[step];
      plans.push_back(plan_valid_step(schedule, call));
    }
  }
  return table;
}

}  // namespace saccade::lite

#pragma once

#include <saccade/lite_schedule.h>

#include <cstdint>

namespace saccade::lite {

// Steps that a valid schedule speaks of: num_steps, else the entries of a list of steps; 0 = any.
std::int64_t covered_steps(const Schedule& schedule);

// plan_step of a valid schedule.
StepPlan plan_valid_step(const Schedule& schedule, const Call& call);

}  // namespace saccade::lite

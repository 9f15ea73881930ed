#pragma once

#include "bench/job.h"
#include "bench/operands.h"

#include <saccade/context.h>

#include <vector>

namespace saccade::cli {

// How many of the tiles SLA's random masks hold, as its defaults do.
constexpr double kCriticalShare = 0.05;
constexpr double kMarginalShare = 0.85;

// What SLA is made of, with the softmax map:
//   routing          pool_tiles of q and k, select_tiles
//   linear, all      linear attention where every query meets every key
//   linear, marginal over random marginal tiles
//   sla              softmax attention over random critical tiles and the latter
// Counted are the two products of linear attention forward, the six backward (4 and 12 operations
// for each token, element of head_dim and feature), and of the critical tiles what attention
// counts; not the maps, and not the sums over tiles. Routing counts its logits. All memory is
// allocated here; `operands` must outlive the jobs.
std::vector<Job> sla_jobs(const Context& context, const Operands& operands);

}  // namespace saccade::cli

#pragma once

#include "bench/job.h"
#include "bench/operands.h"

#include <saccade/context.h>

#include <optional>
#include <vector>

namespace saccade::cli {

// Attention in both passes: dense, then with baselines::random_tiles at each sparsity, in [0, 1):
// whole tiles of every head, at least one in each row of tiles. The masked forward pass writes
// marks, as every step of a skipping method does. Only what the active tiles need is counted: 4
// operations per logit and element of head_dim forward, 10 backward (two and five products). All
// memory is allocated here; `operands` must outlive the jobs.
std::vector<Job> attention_jobs(const Context& context,
                                const Operands& operands,
                                const std::vector<double>& sparsities);

}  // namespace saccade::cli

#pragma once

#include "core/attention_problem.h"
#include "core/linear_problem.h"
#include "core/routing_problem.h"

#include <saccade/merge_partials.h>
#include <saccade/update_mask.h>

#include <span>

// The oracle: every primitive in scalar double precision, written to be read. What these functions
// compute is what saccade means; all backends are measured against them. They follow any VisitPlan,
// so that each backend's marks and scores can be replayed.

namespace saccade::reference {

void attention_forward(const ForwardProblem& problem);
void attention_backward(const BackwardProblem& problem);
void merge_partials(std::span<const Partial> partials, const Partial& merged);
void merge_partials_backward(std::span<const Partial> partials,
                             const Partial& merged,
                             const Partial& dmerged,
                             std::span<const Partial> gradients);
void computed_tiles(const TileMaskView& mask,
                    const ComputedTilesOptions& options,
                    const TileMaskView& computed);
void update_mask(const UpdateMaskInputs& inputs,
                 const UpdateMaskOptions& options,
                 const UpdateMaskOutputs& outputs);
void pool_tiles(const PoolProblem& problem);
void select_tiles(const SelectProblem& problem);
void linear_forward(const LinearForwardProblem& problem);
void linear_backward(const LinearBackwardProblem& problem);

}  // namespace saccade::reference

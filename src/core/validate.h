#pragma once

#include "core/attention_problem.h"
#include "core/linear_problem.h"
#include "core/routing_problem.h"

#include <saccade/merge_partials.h>
#include <saccade/update_mask.h>

#include <span>
#include <string_view>

// Checks that hold for every backend. Each throws InvalidArgument with the limit, the value and the
// legal choice; nothing else has happened by then.

namespace saccade {

// Checked inputs and options, defaults resolved; `outputs` and `plan` stay empty.
ForwardProblem validate(const AttentionInputs& inputs, const AttentionForwardOptions& options);
BackwardProblem validate(const AttentionBackwardInputs& inputs,
                         const AttentionBackwardOptions& options);

// Checks the outputs against the problem and stores them in it.
void attach_outputs(ForwardProblem& problem, const AttentionForwardOutputs& outputs);
void attach_outputs(BackwardProblem& problem, const AttentionBackwardOutputs& outputs);

LinearForwardProblem validate(const LinearInputs& inputs, const LinearOptions& options);
LinearBackwardProblem validate(const LinearBackwardInputs& inputs, const LinearOptions& options);
// `name`: what the caller calls it.
void attach_outputs(LinearForwardProblem& problem,
                    const TensorView& out,
                    std::string_view name = "out");
void attach_outputs(LinearBackwardProblem& problem, const LinearGradients& gradients);

void validate_merge(std::span<const Partial> partials, const Partial& merged);
void validate_merge_backward(std::span<const Partial> partials,
                             const Partial& merged,
                             const Partial& dmerged,
                             std::span<const Partial> gradients);

void validate_computed_tiles(const TileMaskView& mask,
                             const ComputedTilesOptions& options,
                             const TileMaskView& computed);
void validate_update_mask(const UpdateMaskInputs& inputs,
                          const UpdateMaskOptions& options,
                          const UpdateMaskOutputs& outputs);

PoolProblem validate_pool(const PoolTilesInputs& inputs,
                          const PoolTilesOptions& options,
                          const TensorView& means);
SelectProblem validate(const SelectTilesInputs& inputs, const SelectTilesOptions& options);
void attach_outputs(SelectProblem& problem, const TileClasses& classes);

}  // namespace saccade

#pragma once

#include "core/backend.h"

// The cpu backend, one file per primitive. Each compiles once per instruction set and picks the
// best one at run time.

namespace saccade::cpu {

// Of attention_forward, on the instruction set that runs.
int panel_rows();
std::size_t workspace_size(const ForwardProblem& problem, int workers);
void attention_forward(const Execution& execution, const ForwardProblem& problem);

std::size_t workspace_size(const BackwardProblem& problem, int workers);
void attention_backward(const Execution& execution, const BackwardProblem& problem);

void merge_partials(const Execution& execution,
                    std::span<const Partial> partials,
                    const Partial& merged);
void merge_partials_backward(const Execution& execution,
                             std::span<const Partial> partials,
                             const Partial& merged,
                             const Partial& dmerged,
                             std::span<const Partial> gradients);

void computed_tiles(const Execution& execution,
                    const TileMaskView& mask,
                    const ComputedTilesOptions& options,
                    const TileMaskView& computed);
void update_mask(const Execution& execution,
                 const UpdateMaskInputs& inputs,
                 const UpdateMaskOptions& options,
                 const UpdateMaskOutputs& outputs);

void pool_tiles(const Execution& execution, const PoolProblem& problem);

std::size_t workspace_size(const SelectProblem& problem, int workers);
void select_tiles(const Execution& execution, const SelectProblem& problem);

std::size_t workspace_size(const LinearForwardProblem& problem, int workers);
void linear_forward(const Execution& execution, const LinearForwardProblem& problem);

std::size_t workspace_size(const LinearBackwardProblem& problem, int workers);
void linear_backward(const Execution& execution, const LinearBackwardProblem& problem);

}  // namespace saccade::cpu

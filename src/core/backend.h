#pragma once

#include "core/attention_problem.h"
#include "core/linear_problem.h"
#include "core/routing_problem.h"

#include <saccade/merge_partials.h>
#include <saccade/update_mask.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace saccade {

// What a call may use while it runs. `workspace` is 64-byte aligned and as large as the backend
// asked for with this number of workers.
struct Execution {
  Executor& executor;
  int workers;
  std::span<std::byte> workspace;
};

// One implementation of the kernel vocabulary. To add a backend: implement this, add its name to
// `enum class Backend`, and return it from backend_of in dispatch.cc.
// Every argument has passed the checks of validate.h; a backend only says what it cannot do.
class BackendOps {
 public:
  virtual ~BackendOps() = default;

  // The reason, naming limit, value and nearest legal choice; nothing if the problem can be run.
  virtual std::optional<std::string> why_unsupported(const AttentionProblem& problem) const = 0;

  // Throws Unsupported for a number of panel_rows that the backend does not take.
  virtual VisitPlan visit_plan(const AttentionProblem& problem,
                               const AttentionForwardOptions& options) const = 0;

  virtual std::size_t workspace_size(const ForwardProblem& problem, int workers) const = 0;
  virtual void attention_forward(const Execution& execution,
                                 const ForwardProblem& problem) const = 0;

  virtual std::size_t workspace_size(const BackwardProblem& problem, int workers) const = 0;
  virtual void attention_backward(const Execution& execution,
                                  const BackwardProblem& problem) const = 0;

  virtual void merge_partials(const Execution& execution,
                              std::span<const Partial> partials,
                              const Partial& merged) const = 0;
  virtual void merge_partials_backward(const Execution& execution,
                                       std::span<const Partial> partials,
                                       const Partial& merged,
                                       const Partial& dmerged,
                                       std::span<const Partial> gradients) const = 0;

  virtual void computed_tiles(const Execution& execution,
                              const TileMaskView& mask,
                              const ComputedTilesOptions& options,
                              const TileMaskView& computed) const = 0;
  virtual void update_mask(const Execution& execution,
                           const UpdateMaskInputs& inputs,
                           const UpdateMaskOptions& options,
                           const UpdateMaskOutputs& outputs) const = 0;

  virtual std::optional<std::string> why_unsupported(const PoolProblem& problem) const = 0;
  virtual void pool_tiles(const Execution& execution, const PoolProblem& problem) const = 0;

  virtual std::optional<std::string> why_unsupported(const SelectProblem& problem) const = 0;
  virtual std::size_t workspace_size(const SelectProblem& problem, int workers) const = 0;
  virtual void select_tiles(const Execution& execution, const SelectProblem& problem) const = 0;

  virtual std::size_t workspace_size(const LinearForwardProblem& problem, int workers) const = 0;
  virtual void linear_forward(const Execution& execution,
                              const LinearForwardProblem& problem) const = 0;

  virtual std::size_t workspace_size(const LinearBackwardProblem& problem, int workers) const = 0;
  virtual void linear_backward(const Execution& execution,
                               const LinearBackwardProblem& problem) const = 0;
};

const BackendOps& reference_backend();
const BackendOps& cpu_backend();

}  // namespace saccade

#include "core/backend.h"
#include "core/validate.h"
#include "core/workspace.h"

#include <saccade/attention.h>
#include <saccade/error.h>
#include <saccade/linear_attention.h>
#include <saccade/merge_partials.h>
#include <saccade/routing.h>
#include <saccade/update_mask.h>

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <string>

// The only file that knows all backends. Every public call passes through here: checked once, then
// handed to the backend together with its executor and workspace.

namespace saccade {
namespace {

const BackendOps& backend_of(const Context& context) {
  switch (resolve_backend(context)) {
    case Backend::reference:
      return reference_backend();
    case Backend::cpu:
      return cpu_backend();
  }
  throw InvalidArgument("context.backend is not a value of saccade::Backend");
}

Executor& executor_of(const Context& context) {
  return context.executor != nullptr ? *context.executor : default_executor();
}

// Runs validated, supported problems: one body for the size query and the call of every primitive.
struct Call {
  explicit Call(const Context& context)
      : backend(backend_of(context)),
        executor(executor_of(context)),
        workers(std::max(1, executor.max_workers())) {}

  ForwardProblem problem(const AttentionInputs& inputs,
                         const AttentionForwardOptions& options) const {
    ForwardProblem problem = validate_forward(inputs, options);
    require_support(problem);
    problem.plan = backend.visit_plan(problem, options.order);
    return problem;
  }
  BackwardProblem problem(const AttentionBackwardInputs& inputs,
                          const AttentionBackwardOptions& options) const {
    BackwardProblem problem = validate_backward(inputs, options);
    require_support(problem);
    return problem;
  }
  SelectProblem problem(const SelectTilesInputs& inputs, const SelectTilesOptions& options) const {
    SelectProblem problem = validate_select(inputs, options);
    require_support(problem);
    return problem;
  }
  LinearForwardProblem problem(const LinearInputs& inputs, const LinearOptions& options) const {
    LinearForwardProblem problem = validate_linear_forward(inputs, options);
    require_support(problem);
    return problem;
  }
  LinearBackwardProblem problem(const LinearBackwardInputs& inputs,
                                const LinearOptions& options) const {
    LinearBackwardProblem problem = validate_linear_backward(inputs, options);
    require_support(problem);
    return problem;
  }
  void require_support(const auto& problem) const {
    if (const auto reason = backend.why_unsupported(problem)) throw Unsupported(*reason);
  }
  std::size_t workspace_size(const auto& problem) const {
    return backend.workspace_size(problem, workers);
  }

  Execution execution(std::span<std::byte> workspace = {}) const {
    return {executor, workers, workspace};
  }

  const BackendOps& backend;
  Executor& executor;
  const int workers;
};

}  // namespace

std::string_view name_of(Backend backend) {
  return backend == Backend::reference ? "reference" : "cpu";
}

Backend resolve_backend(const Context& context) {
  if (context.backend) return *context.backend;
  const char* forced = std::getenv("SACCADE_BACKEND");
  if (forced == nullptr || *forced == '\0') return Backend::cpu;
  for (const Backend backend : {Backend::reference, Backend::cpu}) {
    if (name_of(backend) == forced) return backend;
  }
  throw InvalidArgument(
      fmt::format("SACCADE_BACKEND is '{}', but must be one of: reference, cpu", forced));
}

VisitPlan visit_plan(const Context& context,
                     const AttentionInputs& inputs,
                     const AttentionForwardOptions& options) {
  return Call(context).problem(inputs, options).plan;
}

std::size_t attention_forward_workspace_size(const Context& context,
                                             const AttentionInputs& inputs,
                                             const AttentionForwardOptions& options) {
  const Call call(context);
  return call.workspace_size(call.problem(inputs, options));
}

void attention_forward(const Context& context,
                       const AttentionInputs& inputs,
                       const AttentionForwardOptions& options,
                       const AttentionForwardOutputs& outputs) {
  const Call call(context);
  ForwardProblem problem = call.problem(inputs, options);
  attach_outputs(problem, outputs);
  const Workspace workspace(context.workspace, call.workspace_size(problem));
  call.backend.attention_forward(call.execution(workspace.span()), problem);
}

std::size_t attention_backward_workspace_size(const Context& context,
                                              const AttentionBackwardInputs& inputs,
                                              const AttentionBackwardOptions& options) {
  const Call call(context);
  return call.workspace_size(call.problem(inputs, options));
}

void attention_backward(const Context& context,
                        const AttentionBackwardInputs& inputs,
                        const AttentionBackwardOptions& options,
                        const AttentionBackwardOutputs& outputs) {
  const Call call(context);
  BackwardProblem problem = call.problem(inputs, options);
  attach_outputs(problem, outputs);
  const Workspace workspace(context.workspace, call.workspace_size(problem));
  call.backend.attention_backward(call.execution(workspace.span()), problem);
}

void merge_partials(const Context& context,
                    std::span<const Partial> partials,
                    const Partial& merged) {
  const Call call(context);
  validate_merge(partials, merged);
  call.backend.merge_partials(call.execution(), partials, merged);
}

void merge_partials_backward(const Context& context,
                             std::span<const Partial> partials,
                             const Partial& merged,
                             const Partial& dmerged,
                             std::span<const Partial> gradients) {
  const Call call(context);
  validate_merge_backward(partials, merged, dmerged, gradients);
  call.backend.merge_partials_backward(call.execution(), partials, merged, dmerged, gradients);
}

void update_mask(const Context& context,
                 const UpdateMaskInputs& inputs,
                 const UpdateMaskOptions& options,
                 const TileMaskView& next) {
  const Call call(context);
  validate_update_mask(inputs, options, next);
  call.backend.update_mask(call.execution(), inputs, options, next);
}

void pool_tiles(const Context& context,
                const PoolTilesInputs& inputs,
                const PoolTilesOptions& options,
                const TensorView& means) {
  const Call call(context);
  const PoolProblem problem = validate_pool(inputs, options, means);
  call.require_support(problem);
  call.backend.pool_tiles(call.execution(), problem);
}

std::size_t select_tiles_workspace_size(const Context& context,
                                        const SelectTilesInputs& inputs,
                                        const SelectTilesOptions& options) {
  const Call call(context);
  return call.workspace_size(call.problem(inputs, options));
}

void select_tiles(const Context& context,
                  const SelectTilesInputs& inputs,
                  const SelectTilesOptions& options,
                  const TileClasses& classes) {
  const Call call(context);
  SelectProblem problem = call.problem(inputs, options);
  attach_outputs(problem, classes);
  const Workspace workspace(context.workspace, call.workspace_size(problem));
  call.backend.select_tiles(call.execution(workspace.span()), problem);
}

std::string_view name_of(FeatureMap feature_map) {
  switch (feature_map) {
    case FeatureMap::softmax:
      return "softmax";
    case FeatureMap::elu_plus_one:
      return "elu_plus_one";
    case FeatureMap::relu:
      return "relu";
    case FeatureMap::hedgehog:
      return "hedgehog";
  }
  throw InvalidArgument(fmt::format("feature_map is {}, but must be a value of saccade::FeatureMap",
                                    static_cast<int>(feature_map)));
}

std::size_t linear_forward_workspace_size(const Context& context,
                                          const LinearInputs& inputs,
                                          const LinearOptions& options) {
  const Call call(context);
  return call.workspace_size(call.problem(inputs, options));
}

void linear_forward(const Context& context,
                    const LinearInputs& inputs,
                    const LinearOptions& options,
                    const TensorView& out) {
  const Call call(context);
  LinearForwardProblem problem = call.problem(inputs, options);
  attach_outputs(problem, out);
  const Workspace workspace(context.workspace, call.workspace_size(problem));
  call.backend.linear_forward(call.execution(workspace.span()), problem);
}

std::size_t linear_backward_workspace_size(const Context& context,
                                           const LinearBackwardInputs& inputs,
                                           const LinearOptions& options) {
  const Call call(context);
  return call.workspace_size(call.problem(inputs, options));
}

void linear_backward(const Context& context,
                     const LinearBackwardInputs& inputs,
                     const LinearOptions& options,
                     const LinearGradients& gradients) {
  const Call call(context);
  LinearBackwardProblem problem = call.problem(inputs, options);
  attach_outputs(problem, gradients);
  const Workspace workspace(context.workspace, call.workspace_size(problem));
  call.backend.linear_backward(call.execution(workspace.span()), problem);
}

}  // namespace saccade

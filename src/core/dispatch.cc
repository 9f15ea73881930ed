#include "core/call.h"

#include <saccade/attention.h>
#include <saccade/error.h>
#include <saccade/linear_attention.h>
#include <saccade/merge_partials.h>
#include <saccade/routing.h>
#include <saccade/update_mask.h>

#include <fmt/format.h>

#include <cstdlib>
#include <string>

// The only file that knows all backends. Every public call passes through here.

namespace saccade {

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
  return workspace_of(context, inputs, options);
}

void attention_forward(const Context& context,
                       const AttentionInputs& inputs,
                       const AttentionForwardOptions& options,
                       const AttentionForwardOutputs& outputs) {
  run<&BackendOps::attention_forward>(context, inputs, options, outputs);
}

std::size_t attention_backward_workspace_size(const Context& context,
                                              const AttentionBackwardInputs& inputs,
                                              const AttentionBackwardOptions& options) {
  return workspace_of(context, inputs, options);
}

void attention_backward(const Context& context,
                        const AttentionBackwardInputs& inputs,
                        const AttentionBackwardOptions& options,
                        const AttentionBackwardOutputs& outputs) {
  run<&BackendOps::attention_backward>(context, inputs, options, outputs);
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

void computed_tiles(const Context& context,
                    const TileMaskView& mask,
                    const ComputedTilesOptions& options,
                    const TileMaskView& computed) {
  const Call call(context);
  validate_computed_tiles(mask, options, computed);
  call.backend.computed_tiles(call.execution(), mask, options, computed);
}

void update_mask(const Context& context,
                 const UpdateMaskInputs& inputs,
                 const UpdateMaskOptions& options,
                 const UpdateMaskOutputs& outputs) {
  const Call call(context);
  validate_update_mask(inputs, options, outputs);
  call.backend.update_mask(call.execution(), inputs, options, outputs);
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
  return workspace_of(context, inputs, options);
}

void select_tiles(const Context& context,
                  const SelectTilesInputs& inputs,
                  const SelectTilesOptions& options,
                  const TileClasses& classes) {
  run<&BackendOps::select_tiles>(context, inputs, options, classes);
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
  return workspace_of(context, inputs, options);
}

void linear_forward(const Context& context,
                    const LinearInputs& inputs,
                    const LinearOptions& options,
                    const TensorView& out) {
  run<&BackendOps::linear_forward>(context, inputs, options, out);
}

std::size_t linear_backward_workspace_size(const Context& context,
                                           const LinearBackwardInputs& inputs,
                                           const LinearOptions& options) {
  return workspace_of(context, inputs, options);
}

void linear_backward(const Context& context,
                     const LinearBackwardInputs& inputs,
                     const LinearOptions& options,
                     const LinearGradients& gradients) {
  run<&BackendOps::linear_backward>(context, inputs, options, gradients);
}

}  // namespace saccade

#include "core/validate.h"

#include <saccade/error.h>
#include <saccade/lite.h>

#include <fmt/format.h>

namespace saccade::lite {

void step(const Context& context,
          const AttentionInputs& inputs,
          const StepOptions& options,
          const TileMaskView& state,
          const AttentionForwardOutputs& outputs) {
  if (inputs.tiles) {
    throw InvalidArgument("inputs.tiles is given, but the state decides which tiles are computed");
  }
  if (inputs.ref) {
    throw InvalidArgument(
        "inputs.ref is given, but the paper's rule measures against the running "
        "row maximum");
  }
  if (!state) throw InvalidArgument("state is missing");
  if (!outputs.marks) throw InvalidArgument("outputs.marks is missing");
  if (options.plan.thresholds.size() != 1) {
    throw Unsupported(
        fmt::format("the plan has {} thresholds, but this build needs 1 for all heads",
                    options.plan.thresholds.size()));
  }

  AttentionInputs computed = inputs;
  if (!options.plan.is_dense) computed.tiles = state;
  const UpdateMaskInputs found = {
      .mask = state, .computed = computed.tiles, .marks = outputs.marks, .scores = {}};
  const UpdateMaskOptions update = {.threshold = {},
                                    .protected_queries = options.protected_queries,
                                    .protected_keys = options.protected_keys};
  validate_update_mask(found, update, state);  // before attention writes anything
  attention_forward(context, computed,
                    {.scale = options.scale,
                     .threshold = options.plan.thresholds.front(),
                     .order = options.order,
                     .block_q = state.grid.block_q,
                     .block_k = state.grid.block_k},
                    outputs);
  update_mask(context, found, update, state);
}

}  // namespace saccade::lite

#include "core/require.h"
#include "core/validate.h"

#include <saccade/error.h>
#include <saccade/lite.h>

#include <fmt/format.h>

#include <algorithm>

namespace saccade::lite {
namespace {

void require_given(bool is_given, const char* name, const char* why) {
  if (!is_given) throw InvalidArgument(fmt::format("{} is missing, but {}", name, why));
}

void require_inputs(const AttentionInputs& inputs) {
  if (inputs.tiles) {
    throw InvalidArgument("inputs.tiles is given, but the state decides which tiles are computed");
  }
  if (inputs.ref) {
    throw InvalidArgument("inputs.ref is given, but the state holds what scores are measured with");
  }
}

void require_state(const AttentionInputs& inputs,
                   const StepOptions& options,
                   const StateView& state,
                   const StepOutputs& outputs) {
  require_given(static_cast<bool>(state.mask), "state.mask", "every rule needs it");
  require_given(static_cast<bool>(outputs.computed), "outputs.computed", "every rule needs it");
  const bool is_lse = options.rule.reference == Reference::lse;
  if (is_lse) {
    const TileGrid& grid = state.mask.grid;
    require_given(static_cast<bool>(outputs.lse), "outputs.lse", "the lse reference needs it");
    require_tensor("state.ref", state.ref, inputs.q.dtype == DType::f64 ? DType::f64 : DType::f32,
                   {grid.batch, grid.heads, grid.q_len});
    require_packed("state.ref", state.ref);
  } else if (state.ref) {
    throw InvalidArgument("state.ref is given, but the running reference has no use for it");
  }
  if (needs_scores(options.rule, options.plan)) {
    require_given(
        static_cast<bool>(outputs.scores), "outputs.scores",
        options.rule.mass_budget ? "a mass budget needs it" : "thresholds of single heads need it");
  }
  if (options.plan.thresholds.empty()) {
    throw InvalidArgument("plan.thresholds is empty, but needs one, or one for each query head");
  }
}

ComputedTilesOptions computed_options(const StepOptions& options) {
  return {.is_dense = options.plan.is_dense,
          .reprobe_period = options.rule.reprobe_period,
          .step = options.step,
          .protected_queries = options.protected_queries,
          .protected_keys = options.protected_keys,
          .skipped_queries = options.skipped_queries,
          .skipped_keys = options.skipped_keys};
}

UpdateMaskOptions update_options(const StepOptions& options, const StepOutputs& outputs) {
  UpdateMaskOptions update = {.mass_budget = options.rule.mass_budget,
                              .protected_queries = options.protected_queries,
                              .protected_keys = options.protected_keys};
  if (!outputs.scores) return update;
  if (options.plan.thresholds.size() == 1) {
    update.threshold = options.plan.thresholds[0];
  } else {
    update.head_thresholds = options.plan.thresholds;
  }
  return update;
}

// Whether the mask says nothing: attention without one is the same, and a little faster.
bool is_plain(const StepOptions& options) {
  return options.plan.is_dense && options.skipped_queries.empty() && options.skipped_keys.empty();
}

// ref <- lse, which may be strided.
template <typename T>
void copy_lse(const TensorView& lse, const TensorView& ref) {
  const auto* from = static_cast<const T*>(lse.data);
  auto* to = static_cast<T*>(ref.data);
  for (std::int64_t batch = 0; batch < lse.shape[0]; ++batch) {
    for (std::int64_t head = 0; head < lse.shape[1]; ++head) {
      const T* row = from + batch * lse.strides[0] + head * lse.strides[1];
      for (std::int64_t i = 0; i < lse.shape[2]; ++i) *to++ = row[i * lse.strides[2]];
    }
  }
}

}  // namespace

void step(const Context& context,
          const AttentionInputs& inputs,
          const StepOptions& options,
          const StateView& state,
          const StepOutputs& outputs) {
  require_inputs(inputs);
  validate(options.rule);
  require_state(inputs, options, state, outputs);
  const bool is_lse = options.rule.reference == Reference::lse;

  const ComputedTilesOptions selection = computed_options(options);
  validate_computed_tiles(state.mask, selection, outputs.computed);
  const UpdateMaskInputs found = {.mask = state.mask,
                                  .computed = outputs.computed,
                                  .marks = outputs.marks,
                                  .scores = outputs.scores,
                                  .k_lens = inputs.k_lens};
  const UpdateMaskOptions update = update_options(options, outputs);
  const UpdateMaskOutputs next = {
      .next = state.mask, .spent = state.spent, .probed_mass = outputs.probed_mass};
  validate_update_mask(found, update, next);

  computed_tiles(context, state.mask, selection, outputs.computed);
  AttentionInputs computed = inputs;
  if (!is_plain(options)) computed.tiles = outputs.computed;
  if (is_lse && !options.is_first) computed.ref = state.ref;
  attention_forward(
      context, computed,
      {.scale = options.scale,
       .threshold = outputs.marks ? std::optional(options.plan.thresholds[0]) : std::nullopt,
       .order = visit_order(options.rule.order, options.step),
       .block_q = state.mask.grid.block_q,
       .block_k = state.mask.grid.block_k},
      {.out = outputs.out, .lse = outputs.lse, .marks = outputs.marks, .scores = outputs.scores});
  update_mask(context, found, update, next);
  if (!is_lse) return;
  if (state.ref.dtype == DType::f64) {
    copy_lse<double>(outputs.lse, state.ref);
  } else {
    copy_lse<float>(outputs.lse, state.ref);
  }
}

}  // namespace saccade::lite

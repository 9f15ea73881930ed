#include "core/require.h"
#include "core/validate.h"

#include <saccade/error.h>
#include <saccade/lite.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

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

const char* why_scores(const StepOptions& options) {
  if (options.is_partial) return "a partial step needs it";
  if (options.rule.order == Order::strongest) return "the order strongest needs it";
  return options.rule.mass_budget ? "a mass budget needs it" : "thresholds of single heads need it";
}

void require_skippable_values(const StepOptions& options) {
  if (!options.rule.skips_values) return;
  if (options.plan.thresholds.size() > 1) {
    throw InvalidArgument(
        fmt::format("plan.thresholds has {}, but skips_values needs one for all query heads",
                    options.plan.thresholds.size()));
  }
  if (!options.protected_queries.empty() || !options.protected_keys.empty()) {
    throw InvalidArgument(
        "protected tokens are given, but skips_values would leave out weights of theirs; give one "
        "of the two");
  }
}

void require_state(const AttentionInputs& inputs,
                   const StepOptions& options,
                   const StateView& state,
                   const StepOutputs& outputs) {
  require_given(static_cast<bool>(state.mask), "state.mask", "every rule needs it");
  require_given(static_cast<bool>(outputs.computed), "outputs.computed", "every rule needs it");
  if (options.rule.reference == Reference::lse) {
    const TileGrid& grid = state.mask.grid;
    require_given(static_cast<bool>(outputs.lse), "outputs.lse", "the lse reference needs it");
    require_tensor("state.ref", state.ref, inputs.q.dtype == DType::f64 ? DType::f64 : DType::f32,
                   {grid.batch, grid.heads, grid.q_len});
    require_packed("state.ref", state.ref);
  } else if (state.ref || options.is_partial) {
    throw InvalidArgument(state.ref
                              ? "state.ref is given, but the running reference has no use for it"
                              : "a partial step needs the lse reference, not the running one");
  }
  if (options.rule.order == Order::strongest) {
    const TileGrid& grid = state.mask.grid;
    require_tensor("state.scores", state.scores, DType::f32,
                   {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
    require_packed("state.scores", state.scores);
  } else if (state.scores) {
    throw InvalidArgument(fmt::format("state.scores is given, but the order {} has no use for it",
                                      name_of(options.rule.order)));
  }
  if (needs_scores(options)) {
    require_given(static_cast<bool>(outputs.scores), "outputs.scores", why_scores(options));
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

// The call of update_mask that ends a step.
struct Update {
  Update(const AttentionInputs& attention,
         const StepOptions& step,
         const StateView& state,
         const StepOutputs& found)
      : inputs{.mask = state.mask,
               .computed = found.computed,
               .marks = found.marks,
               .scores = found.scores,
               .fall = step.is_partial && !step.is_first ? found.fall : TensorView{},
               .k_lens = attention.k_lens},
        options{.measure = step.rule.measure,
                .mass_budget = step.rule.mass_budget,
                .protected_queries = step.protected_queries,
                .protected_keys = step.protected_keys},
        outputs{.next = state.mask, .spent = state.spent, .probed_mass = found.probed_mass} {
    if (!found.scores) return;
    if (step.plan.thresholds.size() == 1) {
      options.threshold = step.plan.thresholds[0];
    } else {
      options.head_thresholds = step.plan.thresholds;
    }
  }

  UpdateMaskInputs inputs;
  UpdateMaskOptions options;
  UpdateMaskOutputs outputs;
};

// Whether the mask says nothing: attention without one is the same, and a little faster.
bool is_plain(const StepOptions& options) {
  return options.plan.is_dense && options.skipped_queries.empty() && options.skipped_keys.empty();
}

// The first step has no scores to sort by.
VisitOrder order_of(const StepOptions& options) {
  const VisitOrder order = visit_order(options.rule.order, options.step);
  return order == VisitOrder::strongest && options.is_first ? VisitOrder::linear : order;
}

// One row [length] of a [batch, heads, length] tensor.
template <typename T>
struct RowView {
  RowView(const TensorView& tensor, std::int64_t batch, std::int64_t head)
      : first(static_cast<T*>(tensor.data) + batch * tensor.strides[0] + head * tensor.strides[1]),
        stride(tensor.strides[2]) {}
  T& operator[](std::int64_t i) const { return first[i * stride]; }

  T* first;
  std::int64_t stride;
};

// Calls visit(batch, head) for all heads.
template <typename Visit>
void for_each_head(const TileGrid& grid, Visit visit) {
  for (std::int64_t batch = 0; batch < grid.batch; ++batch) {
    for (std::int64_t head = 0; head < grid.heads; ++head) visit(batch, head);
  }
}

// ref <- lse, which may be strided.
template <typename T>
void copy_lse(const TensorView& lse, const TensorView& ref, const TileGrid& grid) {
  for_each_head(grid, [&](std::int64_t batch, std::int64_t head) {
    const RowView<T> from(lse, batch, head), to(ref, batch, head);
    for (std::int64_t i = 0; i < grid.q_len; ++i) to[i] = from[i];
  });
}

void keep_lse(const TensorView& lse, const StateView& state) {
  if (state.ref.dtype == DType::f64) {
    copy_lse<double>(lse, state.ref, state.mask.grid);
  } else {
    copy_lse<float>(lse, state.ref, state.mask.grid);
  }
}

// Scores of the tiles that the step computed, and of those that scored 0 their place in the list;
// at the first step, NaN for all others.
void keep_scores(const StepOutputs& outputs,
                 const StateView& state,
                 VisitOrder order,
                 bool is_first) {
  const TileGrid& grid = state.mask.grid;
  std::vector<std::int32_t> tiles(grid.k_tiles());
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    const float* found = static_cast<const float*>(outputs.scores.data) + row * grid.k_tiles();
    float* kept = static_cast<float*>(state.scores.data) + row * grid.k_tiles();
    const std::int64_t listed = list_row(grid, outputs.computed.row(row), row % grid.q_tiles(),
                                         grid.k_tiles(), order, kept, tiles.data());
    if (is_first) std::fill_n(kept, grid.k_tiles(), std::numeric_limits<float>::quiet_NaN());
    for (std::int64_t i = 0; i < listed; ++i) {
      const float score = found[tiles[i]];
      kept[tiles[i]] = score == 0 ? static_cast<float>(i) : score;
    }
  }
}

// fall <- the largest ref - lse of the valid queries of each row of tiles, log2 units; NaN if one
// is NaN, as of a row that had no mass before and has none now.
template <typename T>
void find_fall(const AttentionInputs& inputs,
               const TensorView& lse,
               const StateView& state,
               const TensorView& fall) {
  const TileGrid& grid = state.mask.grid;
  auto* falls = static_cast<float*>(fall.data);
  for_each_head(grid, [&](std::int64_t batch, std::int64_t head) {
    const RowView<T> before(state.ref, batch, head), now(lse, batch, head);
    const std::int64_t queries =
        inputs.q_lens
            ? static_cast<const std::int32_t*>(inputs.q_lens.data)[batch * inputs.q_lens.strides[0]]
            : grid.q_len;
    for (std::int64_t first = 0; first < grid.q_len; first += grid.block_q) {
      const std::int64_t end = std::min(first + grid.block_q, queries);
      double largest = -std::numeric_limits<double>::infinity();
      for (std::int64_t i = first; i < end; ++i) {
        const double row_fall = static_cast<double>(before[i]) - static_cast<double>(now[i]);
        if (!(row_fall <= largest)) largest = row_fall;
        if (std::isnan(row_fall)) break;
      }
      *falls++ = static_cast<float>(largest * std::numbers::log2e);
    }
  });
}

}  // namespace

void step(const Context& context,
          const AttentionInputs& inputs,
          const StepOptions& options,
          const StateView& state,
          const StepOutputs& outputs) {
  require_inputs(inputs);
  validate(options.rule);
  require_skippable_values(options);
  require_state(inputs, options, state, outputs);
  const ComputedTilesOptions selection = computed_options(options);
  validate_computed_tiles(state.mask, selection, outputs.computed);
  const Update update(inputs, options, state, outputs);
  validate_update_mask(update.inputs, update.options, update.outputs);

  computed_tiles(context, state.mask, selection, outputs.computed);
  AttentionInputs computed = inputs;
  if (!is_plain(options)) computed.tiles = outputs.computed;
  const bool has_ref = options.rule.reference == Reference::lse && !options.is_first;
  if (has_ref) computed.ref = state.ref;
  const VisitOrder order = order_of(options);
  const bool skips_values = options.rule.skips_values && !options.plan.is_dense;
  if (order == VisitOrder::strongest) computed.priorities = state.scores;
  attention_forward(
      context, computed,
      {.scale = options.scale,
       .threshold =
           outputs.marks || skips_values ? std::optional(options.plan.thresholds[0]) : std::nullopt,
       .measure = options.rule.measure,
       .order = order,
       .is_partial = options.is_partial && has_ref,
       .skips_values = skips_values,
       .block_q = state.mask.grid.block_q,
       .block_k = state.mask.grid.block_k},
      {.out = outputs.out, .lse = outputs.lse, .marks = outputs.marks, .scores = outputs.scores});
  if (options.is_partial) return;
  update_mask(context, update.inputs, update.options, update.outputs);
  if (options.rule.reference == Reference::lse) keep_lse(outputs.lse, state);
  if (state.scores) keep_scores(outputs, state, order, options.is_first);
}

void finish_step(const Context& context,
                 const AttentionInputs& inputs,
                 const StepOptions& options,
                 const TensorView& lse,
                 const StateView& state,
                 const StepOutputs& outputs) {
  if (!options.is_partial) {
    throw InvalidArgument("the step was not partial: it has finished by itself");
  }
  validate(options.rule);
  require_state(inputs, options, state, outputs);
  const TileGrid& grid = state.mask.grid;
  require_tensor("lse", lse, state.ref.dtype, {grid.batch, grid.heads, grid.q_len});
  require_lengths("q_lens", inputs.q_lens, grid.batch, grid.q_len);
  require_given(options.is_first || outputs.fall, "outputs.fall", "a partial step needs it");
  const Update update(inputs, options, state, outputs);
  validate_update_mask(update.inputs, update.options, update.outputs);

  if (!options.is_first && lse.dtype == DType::f64) {
    find_fall<double>(inputs, lse, state, outputs.fall);
  } else if (!options.is_first) {
    find_fall<float>(inputs, lse, state, outputs.fall);
  }
  update_mask(context, update.inputs, update.options, update.outputs);
  keep_lse(lse, state);
}

}  // namespace saccade::lite

#include "core/require.h"
#include "core/validate.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <cmath>

namespace saccade {
namespace {

void require_protected(std::span<const TokenRange> queries,
                       std::span<const TokenRange> keys,
                       const TileGrid& grid) {
  require_ranges("protected_queries", queries, grid.q_len);
  require_ranges("protected_keys", keys, grid.k_len);
}

void require_per_row(std::string_view name, const TensorView& tensor, const TileGrid& grid) {
  require_tensor(name, tensor, DType::f32, {grid.batch, grid.heads, grid.q_tiles()});
  require_packed(name, tensor);
}

void require_thresholds(const UpdateMaskOptions& options, const UpdateMaskInputs& inputs) {
  const bool per_head = !options.head_thresholds.empty();
  if (!inputs.scores) {
    if (options.threshold || per_head) {
      throw InvalidArgument("threshold is given without scores");
    }
    return;
  }
  if (options.threshold.has_value() == per_head) {
    throw InvalidArgument(per_head
                              ? "both threshold and head_thresholds are given, but only one may be"
                              : "scores are given without a threshold");
  }
  if (options.threshold) require_threshold(*options.threshold);
  const auto heads = static_cast<std::int64_t>(options.head_thresholds.size());
  if (per_head && heads != inputs.mask.grid.heads) {
    throw InvalidArgument(fmt::format("there are {} head_thresholds for {} query heads", heads,
                                      inputs.mask.grid.heads));
  }
  for (const double threshold : options.head_thresholds) require_threshold(threshold);
}

void require_mass(const UpdateMaskInputs& inputs,
                  const UpdateMaskOptions& options,
                  const UpdateMaskOutputs& outputs) {
  const TileGrid& grid = inputs.mask.grid;
  if (options.mass_budget && !(*options.mass_budget >= 0)) {
    throw InvalidArgument(
        fmt::format("mass_budget is {}, but must be at least 0", *options.mass_budget));
  }
  if (options.mass_budget.has_value() != static_cast<bool>(outputs.spent)) {
    throw InvalidArgument(options.mass_budget ? "mass_budget is given without spent"
                                              : "spent is given without a mass_budget");
  }
  if ((options.mass_budget || outputs.probed_mass) && !inputs.scores) {
    throw InvalidArgument(fmt::format("{} needs scores, but marks are given",
                                      options.mass_budget ? "mass_budget" : "probed_mass"));
  }
  if (outputs.spent) require_per_row("spent", outputs.spent, grid);
  if (outputs.probed_mass) require_per_row("probed_mass", outputs.probed_mass, grid);
  require_lengths("k_lens", inputs.k_lens, grid.batch, grid.k_len);
}

}  // namespace

void validate_computed_tiles(const TileMaskView& mask,
                             const ComputedTilesOptions& options,
                             const TileMaskView& computed) {
  validate(computed.grid);
  const TileGrid& grid = computed.grid;
  require_mask("computed", computed, grid);
  require_mask("mask", mask, grid);
  if (options.reprobe_period < 0 || options.step < 0) {
    throw InvalidArgument(fmt::format("{} is {}, but must be at least 0",
                                      options.step < 0 ? "step" : "reprobe_period",
                                      options.step < 0 ? options.step : options.reprobe_period));
  }
  require_protected(options.protected_queries, options.protected_keys, grid);
  require_ranges("skipped_queries", options.skipped_queries, grid.q_len);
  require_ranges("skipped_keys", options.skipped_keys, grid.k_len);
}

void validate_update_mask(const UpdateMaskInputs& inputs,
                          const UpdateMaskOptions& options,
                          const UpdateMaskOutputs& outputs) {
  validate(outputs.next.grid);
  const TileGrid& grid = outputs.next.grid;
  require_mask("next", outputs.next, grid);
  require_mask("mask", inputs.mask, grid);
  if (inputs.computed) require_mask("computed", inputs.computed, grid);
  if (static_cast<bool>(inputs.marks) == static_cast<bool>(inputs.scores)) {
    throw InvalidArgument(inputs.marks ? "both marks and scores are given, but only one may be"
                                       : "neither marks nor scores are given, but one must be");
  }
  if (inputs.marks) require_mask("marks", inputs.marks, grid);
  if (inputs.scores) {
    require_tensor("scores", inputs.scores, DType::f32,
                   {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
    require_packed("scores", inputs.scores);
  }
  if (inputs.fall && !inputs.scores) throw InvalidArgument("fall is given without scores");
  if (inputs.fall) require_per_row("fall", inputs.fall, grid);
  require_thresholds(options, inputs);
  require_mass(inputs, options, outputs);
  require_protected(options.protected_queries, options.protected_keys, grid);
}

}  // namespace saccade

#pragma once

#include <saccade/context.h>
#include <saccade/measure.h>
#include <saccade/tensor_view.h>
#include <saccade/tile_mask.h>

#include <cstdint>
#include <optional>
#include <span>

// What happens to a mask around one call of attention: the tiles that it computes, and what of them
// is left for the next step. All masks of a call share one grid.

namespace saccade {

struct ComputedTilesOptions {
  bool is_dense = false;  // every tile, whatever the mask says

  // R > 0: also the tiles with (q_tile + k_tile + step) % R == 0, a diagonal stripe that visits
  // every tile once in R steps; 0 = none.
  std::int64_t reprobe_period = 0;
  std::int64_t step = 0;

  // Tokens that must never be skipped (text, audio), rounded outward to tiles: whole rows of tiles
  // for query ranges, whole columns for key ranges.
  std::span<const TokenRange> protected_queries{};
  std::span<const TokenRange> protected_keys{};

  // Tokens that must never be computed (padding, other sequences), rounded inward: tiles whose
  // queries, or whose keys, all lie in one range. They win over everything else.
  std::span<const TokenRange> skipped_queries{};
  std::span<const TokenRange> skipped_keys{};
};

// The tiles that a step computes: (mask | stripe | protected) & ~skipped. `computed` may be `mask`.
// Throws InvalidArgument.
void computed_tiles(const Context& context,
                    const TileMaskView& mask,
                    const ComputedTilesOptions& options,
                    const TileMaskView& computed);

struct UpdateMaskInputs {
  TileMaskView mask{};      // the state before this step
  TileMaskView computed{};  // the tiles that attention_forward was given; absent = all of them
  // What it found: exactly one of the two.
  TileMaskView marks{};
  TensorView scores{};  // f32 [batch, heads, q_tiles, k_tiles], densely packed
  // Optional, with scores of a partial call: f32 [batch, heads, q_tiles], densely packed, log2
  // units; added to the scores of a row of tiles, which are capped at 0 then.
  TensorView fall{};
  TensorView k_lens{};  // i32 [batch]; absent = full length. Only bounds on softmax mass read it.
};

struct UpdateMaskOptions {
  // With scores, exactly one of the two: <= 0, log2 units, for all heads or for each query head.
  std::optional<double> threshold{};
  std::span<const double> head_thresholds{};
  Measure measure = Measure::largest_weight;  // of the scores

  // >= 0, with scores and `spent`: at most so much softmax mass may be dropped from a row of tiles,
  // over all steps. See update_mask.
  std::optional<double> mass_budget{};

  // As in ComputedTilesOptions; their tiles are active in the result.
  std::span<const TokenRange> protected_queries{};
  std::span<const TokenRange> protected_keys{};
};

struct UpdateMaskOutputs {
  TileMaskView next{};  // may be inputs.mask; may not overlap the other masks

  // f32 [batch, heads, q_tiles], densely packed, with a budget and only then: read and written. The
  // bounds on the mass of all tiles dropped so far; zeros at the start of a generation.
  TensorView spent{};

  // Optional, with scores: f32 [batch, heads, q_tiles], densely packed. The bounds of the tiles
  // that were computed although the mask had dropped them: times the period of a stripe, an
  // estimate of the mass that is dropped now, which errs on the high side.
  TensorView probed_mass{};
};

// The state after a step (arXiv 2511.11062 Algorithm 2, as set algebra):
//   next = (mask & ~computed) | (computed & ~marked) | protected.
// A computed tile is marked if its bit of `marks` is set, or if its score is <= threshold > -inf; a
// NaN score never is.
//
// No row of a tile has more softmax mass in it than
//   bound = min(1, keys * 2^score) for scores of the largest weight, `keys` being its valid keys,
//   bound = 2^score for those of the largest mass,
// and its rows have no more on average for those of the mean mass; 1 for a NaN score. It holds at
// the step of the score: all the more under the running reference, which overstates weights, and
// with equality for masses. With a budget,
// newly marked tiles of a row of tiles are dropped only while spent + bound <= budget: those with
// the smallest bounds first, by powers of two, and by index within one; the others stay active.
//
// Throws InvalidArgument, before anything is written.
void update_mask(const Context& context,
                 const UpdateMaskInputs& inputs,
                 const UpdateMaskOptions& options,
                 const UpdateMaskOutputs& outputs);

}  // namespace saccade

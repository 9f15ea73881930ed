#pragma once

#include <saccade/context.h>
#include <saccade/tensor_view.h>
#include <saccade/tile_mask.h>

#include <optional>
#include <span>

namespace saccade {

struct UpdateMaskInputs {
  TileMaskView mask{};      // the state before this step
  TileMaskView computed{};  // the tiles that attention_forward was given; absent = all of them
  // What it found: exactly one of the two.
  TileMaskView marks{};
  TensorView scores{};  // f32 [batch, heads, q_tiles, k_tiles], densely packed
};

struct UpdateMaskOptions {
  std::optional<double> threshold{};  // <= 0, log2 units; needed for, and only with, scores
  // Tokens that must never be skipped (text, audio): their tiles are active in the result, rounded
  // outward; whole rows of tiles for query ranges, whole columns for key ranges.
  std::span<const TokenRange> protected_queries{};
  std::span<const TokenRange> protected_keys{};
};

// The state after this step (arXiv 2511.11062 Algorithm 2, as set algebra):
//   next = (mask & ~computed) | (computed & ~marked) | protected.
// A computed tile is marked if its bit of `marks` is set, or if its score is <= threshold > -inf; a
// NaN score never is. All masks share one grid. `next` may be `mask`; it may not overlap the
// others. Throws InvalidArgument.
void update_mask(const Context& context,
                 const UpdateMaskInputs& inputs,
                 const UpdateMaskOptions& options,
                 const TileMaskView& next);

}  // namespace saccade

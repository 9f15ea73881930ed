#include "core/require.h"
#include "methods/baselines/draw.h"

#include <saccade/baselines.h>

#include <algorithm>
#include <cmath>

namespace saccade::baselines {
namespace {

void fill_empty_rows(TileMask& mask, std::int64_t batch, std::int64_t head, Draw& draw) {
  const TileGrid& grid = mask.grid();
  for (std::int64_t q_tile = 0; q_tile < grid.q_tiles(); ++q_tile) {
    if (!mask.ranges(mask.view().row_index(batch, head, q_tile)).empty()) continue;
    mask.set(batch, head, q_tile, draw.below(grid.k_tiles()));
  }
}

// Activates tiles of one head until `wanted` of them are active.
void draw_tiles(
    TileMask& mask, std::int64_t batch, std::int64_t head, std::int64_t wanted, Draw& draw) {
  const TileGrid& grid = mask.grid();
  const std::int64_t tiles = grid.q_tiles() * grid.k_tiles();
  TileMaskView one_head = mask.view();
  one_head.words = one_head.row(one_head.row_index(batch, head, 0));
  one_head.grid.batch = one_head.grid.heads = 1;
  const std::int64_t active = count_active(one_head);

  Sampling sampling(draw, std::max<std::int64_t>(0, wanted - active), tiles - active);
  for (std::int64_t q_tile = 0; q_tile < grid.q_tiles(); ++q_tile) {
    for (std::int64_t k_tile = 0; k_tile < grid.k_tiles(); ++k_tile) {
      if (mask.test(batch, head, q_tile, k_tile)) continue;
      if (sampling.takes_next()) mask.set(batch, head, q_tile, k_tile);
    }
  }
}

}  // namespace

TileMask random_tiles(const TileGrid& grid,
                      double sparsity,
                      std::uint64_t seed,
                      const ProtectedTokens& protected_tokens) {
  require_share("sparsity", sparsity);
  TileMask mask(grid);
  mask.protect(protected_tokens.queries, protected_tokens.keys);
  const auto tiles = static_cast<double>(grid.q_tiles() * grid.k_tiles());
  const std::int64_t wanted = std::llround((1 - sparsity) * tiles);
  Draw draw(seed);
  for (std::int64_t batch = 0; batch < grid.batch; ++batch) {
    for (std::int64_t head = 0; head < grid.heads; ++head) {
      fill_empty_rows(mask, batch, head, draw);
      draw_tiles(mask, batch, head, wanted, draw);
    }
  }
  return mask;
}

}  // namespace saccade::baselines

#pragma once

#include <saccade/tile_mask.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace saccade {

// The order in which a kernel visits the active tiles of one row. It matters where the running
// reference decides (LiteAttention section 4.3). The alternating order is linear on even steps and
// reversed on odd ones.
enum class VisitOrder {
  linear,     // ascending key tiles
  reversed,   // descending key tiles
  radial,     // from the diagonal outwards: c, c-1, c+1, c-2, ...
  strongest,  // by falling priority, NaN first; ties ascend
};

std::string_view name_of(VisitOrder order);

// The key tile on the diagonal of row `q_tile`: where `radial` starts.
std::int64_t diagonal_tile(const TileGrid& grid, std::int64_t q_tile);

// Writes the active tiles of one row in visit order and returns how many there are.
// `row_words` are the row's mask words, null = every tile is active. Tiles at and beyond
// `k_tile_limit` are left out. `priorities` are those of the row's k_tiles() tiles, read by
// VisitOrder::strongest alone. `tiles` has room for grid.k_tiles() entries.
std::int64_t list_row(const TileGrid& grid,
                      const std::uint64_t* row_words,
                      std::int64_t q_tile,
                      std::int64_t k_tile_limit,
                      VisitOrder order,
                      const float* priorities,
                      std::int32_t* tiles);

// The active tiles of a mask as one list per row or per column of tiles (the paper's Skip-List,
// SLA's lookup table). Derived for a call, never stored between steps.
struct TileIndex {
  std::vector<std::int64_t> offsets;  // [lists + 1]; list i is tiles[offsets[i], offsets[i + 1])
  std::vector<std::int32_t> tiles;

  std::int64_t lists() const { return static_cast<std::int64_t>(offsets.size()) - 1; }
  std::span<const std::int32_t> list(std::int64_t i) const {
    return {tiles.data() + offsets[i], tiles.data() + offsets[i + 1]};
  }

  // List (batch * heads + head) * q_tiles + q_tile holds key tiles in visit order. `priorities`,
  // [batch, heads, q_tiles, k_tiles] densely packed, are needed by VisitOrder::strongest alone:
  // throws InvalidArgument without them.
  static TileIndex rows(const TileMaskView& mask,
                        VisitOrder order = VisitOrder::linear,
                        const float* priorities = nullptr);
  // List (batch * heads + head) * k_tiles + k_tile holds query tiles, ascending.
  static TileIndex columns(const TileMaskView& mask);
};

}  // namespace saccade

#include <saccade/error.h>
#include <saccade/tile_grid.h>

#include <fmt/format.h>

#include <cstdint>
#include <limits>
#include <string_view>

namespace saccade {
namespace {

constexpr std::int64_t kMaxLength = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxTiles = std::numeric_limits<std::int64_t>::max();

void check_extent(std::string_view name, std::int64_t value, std::int64_t max) {
  if (value >= 1 && value <= max) return;
  throw InvalidArgument(
      fmt::format("{} is {}, but must be at least 1 and at most {}", name, value, max));
}

void check_block(std::string_view name, int value) {
  if (value == 64 || value == 128) return;
  throw InvalidArgument(fmt::format("{} is {}, but must be 64 or 128; the nearest is {}", name,
                                    value, value < 96 ? 64 : 128));
}

}  // namespace

// Lengths fit i32, as q_lens, k_lens and the entries of a TileIndex do, and the tile count fits
// i64; so no product of extents below overflows.
void validate(const TileGrid& grid) {
  check_block("block_q", grid.block_q);
  check_block("block_k", grid.block_k);
  check_extent("q_len", grid.q_len, kMaxLength);
  check_extent("k_len", grid.k_len, kMaxLength);
  check_extent("batch", grid.batch, kMaxTiles / (grid.q_tiles() * grid.k_tiles()));
  check_extent("heads", grid.heads, kMaxTiles / (grid.q_tiles() * grid.k_tiles() * grid.batch));
}

}  // namespace saccade

#pragma once

#include <saccade/baselines.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

// Videos token by token, for comparison with what the library computes tile by tile.

namespace saccade::test {

struct VideoToken {
  bool is_text = true;
  std::int64_t frame = 0;
  std::int64_t place = 0;
};

inline std::vector<VideoToken> tokens_of(const baselines::VideoLayout& layout) {
  std::vector<VideoToken> tokens(layout.prefix);
  for (std::int64_t frame = 0; frame < layout.frames; ++frame) {
    for (std::int64_t y = 0; y < layout.height; ++y) {
      for (std::int64_t x = 0; x < layout.width; ++x) {
        tokens.push_back({false, frame, y * layout.width + x});
      }
    }
  }
  tokens.resize(tokens.size() + layout.suffix);
  return tokens;
}

inline TileGrid grid_of(const baselines::VideoLayout& layout, int block_q, int block_k) {
  return {.batch = 1,
          .heads = 1,
          .q_len = layout.tokens(),
          .k_len = layout.tokens(),
          .block_q = block_q,
          .block_k = block_k};
}

// The tiles in which some query and key meet.
inline TileMask tiles_where(
    const TileGrid& grid,
    const baselines::VideoLayout& layout,
    const std::function<bool(const VideoToken& query, const VideoToken& key)>& meet) {
  const std::vector<VideoToken> tokens = tokens_of(layout);
  TileMask mask(grid);
  for (std::int64_t q = 0; q < grid.q_len; ++q) {
    for (std::int64_t k = 0; k < grid.k_len; ++k) {
      const std::int64_t q_tile = q / grid.block_q, k_tile = k / grid.block_k;
      if (mask.view().test(q_tile, k_tile)) continue;
      if (meet(tokens[q], tokens[k])) mask.set(0, 0, q_tile, k_tile);
    }
  }
  return mask;
}

}  // namespace saccade::test

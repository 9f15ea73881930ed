#include "methods/baselines/video_tiles.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <utility>

namespace saccade::baselines {
namespace {

// The number of a video token is frame * per_frame + place * per_place.
struct Numbering {
  std::int64_t per_frame = 0;
  std::int64_t per_place = 0;
};

// The smallest difference between the number of a token and those of a part:
// |a + p * per_place| is convex in p, the difference of places, so that the best lies beside its
// zero.
std::int64_t distance(const Numbering& numbering,
                      std::int64_t frame,
                      std::int64_t place,
                      const FramePart& part) {
  const std::int64_t frames = (frame - part.frame) * numbering.per_frame;
  const std::int64_t zero = -frames / numbering.per_place;
  std::int64_t nearest = std::numeric_limits<std::int64_t>::max();
  for (std::int64_t places = zero - 1; places <= zero + 1; ++places) {
    const std::int64_t possible = std::clamp(places, place - (part.end - 1), place - part.begin);
    nearest = std::min(nearest, std::abs(frames + possible * numbering.per_place));
  }
  return nearest;
}

using Parts = std::vector<FramePart>;

// Summed up over the queries of a tile.
std::int64_t distance(const Numbering& numbering, const Parts& queries, const Parts& keys) {
  std::int64_t sum = 0;
  for (const FramePart& part : queries) {
    for (std::int64_t place = part.begin; place < part.end; ++place) {
      std::int64_t nearest = std::numeric_limits<std::int64_t>::max();
      for (const FramePart& k_part : keys) {
        nearest = std::min(nearest, distance(numbering, part.frame, place, k_part));
      }
      sum += nearest;
    }
  }
  return sum;
}

// Activates the nearest tiles of a row until `wanted` are active.
void fill_row(const Numbering& numbering,
              const Parts& q,
              const std::vector<Parts>& k_tiles,
              std::int64_t wanted,
              TileMask& mask,
              std::int64_t q_tile) {
  std::vector<std::pair<std::int64_t, std::int64_t>> nearest;  // distance, key tile
  std::int64_t active = 0;
  for (std::int64_t k_tile = 0; k_tile < mask.grid().k_tiles(); ++k_tile) {
    if (mask.test(0, 0, q_tile, k_tile)) {
      ++active;
    } else {
      nearest.emplace_back(distance(numbering, q, k_tiles[k_tile]), k_tile);
    }
  }
  const auto missing = std::clamp<std::int64_t>(wanted - active, 0, std::ssize(nearest));
  std::partial_sort(nearest.begin(), nearest.begin() + missing, nearest.end());
  for (std::int64_t i = 0; i < missing; ++i) mask.set(0, 0, q_tile, nearest[i].second);
}

TileMask nearest_tiles(const Numbering& numbering,
                       const TileGrid& grid,
                       const VideoLayout& layout,
                       const NearestOptions& options) {
  TileMask mask = always_active(grid, layout, options.sink_frames, options.protected_tokens);
  std::vector<Parts> k_tiles;
  for (std::int64_t k_tile = 0; k_tile < grid.k_tiles(); ++k_tile) {
    k_tiles.push_back(frame_parts(layout, k_tile, grid.block_k));
  }
  const std::int64_t wanted = std::max<std::int64_t>(1, options.share.of(grid.k_tiles()));
  for (std::int64_t q_tile = 0; q_tile < grid.q_tiles(); ++q_tile) {
    const Parts q = frame_parts(layout, q_tile, grid.block_q);
    fill_row(numbering, q, k_tiles, wanted, mask, q_tile);
  }
  return for_every_head(mask, grid);
}

}  // namespace

TileMask spatial_tiles(const TileGrid& grid,
                       const VideoLayout& layout,
                       const NearestOptions& options) {
  const Numbering frame_by_frame = {.per_frame = layout.tokens_per_frame(), .per_place = 1};
  return nearest_tiles(frame_by_frame, grid, layout, options);
}

TileMask temporal_tiles(const TileGrid& grid,
                        const VideoLayout& layout,
                        const NearestOptions& options) {
  const Numbering place_by_place = {.per_frame = 1, .per_place = layout.frames};
  return nearest_tiles(place_by_place, grid, layout, options);
}

}  // namespace saccade::baselines

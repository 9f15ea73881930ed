#pragma once

#include <saccade/baselines.h>

#include <cstdint>
#include <vector>

// What the static masks of a video share. They are the same for every head, so that they are made
// for one.

namespace saccade::baselines {

TileGrid one_head_of(TileGrid grid);

// A mask of one head, for every head of the grid.
TileMask for_every_head(const TileMask& one_head, const TileGrid& grid);

// Of one head: the tiles of text, of the first frames as keys, and of protected tokens. Checks all
// of its arguments.
TileMask always_active(const TileGrid& grid,
                       const VideoLayout& layout,
                       std::int64_t sink_frames,
                       const ProtectedTokens& protected_tokens);

// Consecutive places of one frame.
struct FramePart {
  std::int64_t frame = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// The parts of frames in tile `tile` of `block` tokens; text is in none.
std::vector<FramePart> frame_parts(const VideoLayout& layout, std::int64_t tile, int block);

}  // namespace saccade::baselines

#include "methods/baselines/video_tiles.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

namespace saccade::baselines {
namespace {

void validate(const RadialOptions& options) {
  if (!(options.decay > 0) || !std::isfinite(options.decay)) {
    throw InvalidArgument(
        fmt::format("decay is {}, but must be positive and finite", options.decay));
  }
  if (options.window < 1) {
    throw InvalidArgument(fmt::format("window is {}, but must be at least 1", options.window));
  }
}

// Places less than this apart meet if their frames are `distance` apart; 0 = none do.
std::int64_t band_width(const VideoLayout& layout,
                        const RadialOptions& options,
                        std::int64_t distance) {
  const auto per_frame = static_cast<double>(layout.tokens_per_frame());
  if (distance == 0) return layout.tokens_per_frame();
  const auto halvings = std::bit_width(static_cast<std::uint64_t>(distance)) - 1;
  const double width = std::ldexp(options.decay * per_frame, -halvings);
  const auto window = static_cast<double>(options.window);
  const double interval = std::max(1.0, std::ceil(window / width));
  if (std::fmod(static_cast<double>(distance), interval) != 0) return 0;
  return static_cast<std::int64_t>(std::min(per_frame, std::max(width, window)));
}

// The tiles of `block_k` keys with a place of this frame that meets one of `part`.
TileRange band(const VideoLayout& layout,
               const FramePart& part,
               std::int64_t frame,
               std::int64_t width,
               int block_k) {
  const std::int64_t per_frame = layout.tokens_per_frame();
  const std::int64_t begin = std::max<std::int64_t>(0, part.begin - width + 1);
  const std::int64_t end = std::min(per_frame, part.end + width - 1);
  const std::int64_t first = layout.prefix + frame * per_frame;
  return {(first + begin) / block_k, (first + end + block_k - 1) / block_k};
}

std::vector<TileRange> row_of_tiles(const TileGrid& grid,
                                    const VideoLayout& layout,
                                    const std::vector<std::int64_t>& widths,
                                    std::int64_t q_tile) {
  std::vector<TileRange> ranges;
  for (const FramePart& part : frame_parts(layout, q_tile, grid.block_q)) {
    for (std::int64_t frame = 0; frame < layout.frames; ++frame) {
      const std::int64_t width = widths[std::abs(frame - part.frame)];
      if (width > 0) ranges.push_back(band(layout, part, frame, width, grid.block_k));
    }
  }
  return ranges;
}

}  // namespace

TileMask radial_tiles(const TileGrid& grid,
                      const VideoLayout& layout,
                      const RadialOptions& options) {
  validate(options);
  const TileMask always =
      always_active(grid, layout, options.sink_frames, options.protected_tokens);
  std::vector<std::int64_t> widths;
  for (std::int64_t distance = 0; distance < layout.frames; ++distance) {
    widths.push_back(band_width(layout, options, distance));
  }
  TileMask mask(always.grid());
  for (std::int64_t q_tile = 0; q_tile < grid.q_tiles(); ++q_tile) {
    mask.set_ranges(q_tile, row_of_tiles(grid, layout, widths, q_tile));
  }
  mask |= always;
  return for_every_head(mask, grid);
}

}  // namespace saccade::baselines

#include "methods/baselines/video_tiles.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string_view>

namespace saccade::baselines {
namespace {

// Lengths fit i32, so that no product of two extents overflows.
constexpr std::int64_t kMaxExtent = std::numeric_limits<std::int32_t>::max();

void require_extent(std::string_view name, std::int64_t extent, std::int64_t min) {
  if (extent >= min && extent <= kMaxExtent) return;
  throw InvalidArgument(fmt::format("{} is {}, but must be at least {} and at most {}", name,
                                    extent, min, kMaxExtent));
}

void require_length(std::string_view name, std::int64_t length, const VideoLayout& layout) {
  if (length == layout.tokens()) return;
  throw InvalidArgument(
      fmt::format("{} is {}, but the video has {} tokens: {} of text, {} frames of {} x {}, {} of "
                  "text",
                  name, length, layout.tokens(), layout.prefix, layout.frames, layout.height,
                  layout.width, layout.suffix));
}

}  // namespace

void validate(const VideoLayout& layout, const TileGrid& grid) {
  validate(grid);
  require_extent("frames", layout.frames, 1);
  require_extent("height", layout.height, 1);
  require_extent("width", layout.width, 1);
  require_extent("prefix", layout.prefix, 0);
  require_extent("suffix", layout.suffix, 0);
  if (layout.tokens_per_frame() > kMaxExtent) {
    throw InvalidArgument(fmt::format("a frame has {} x {} tokens, but at most {} are possible",
                                      layout.height, layout.width, kMaxExtent));
  }
  require_length("q_len", grid.q_len, layout);
  require_length("k_len", grid.k_len, layout);
}

TileGrid one_head_of(TileGrid grid) {
  grid.batch = grid.heads = 1;
  return grid;
}

TileMask for_every_head(const TileMask& one_head, const TileGrid& grid) {
  TileMask mask(grid);
  const TileMaskView source = one_head.view();
  for (std::int64_t row = 0; row < grid.rows(); row += grid.q_tiles()) {
    std::copy_n(source.words, source.grid.words(), mask.view().row(row));
  }
  return mask;
}

TileMask always_active(const TileGrid& grid,
                       const VideoLayout& layout,
                       std::int64_t sink_frames,
                       const ProtectedTokens& protected_tokens) {
  validate(layout, grid);
  if (sink_frames < 0 || sink_frames > layout.frames) {
    throw InvalidArgument(fmt::format("sink_frames is {}, but must be at least 0 and at most {}",
                                      sink_frames, layout.frames));
  }
  const TokenRange prefix = {0, layout.prefix};
  const TokenRange suffix = {layout.tokens() - layout.suffix, layout.tokens()};
  const TokenRange sinks = {layout.prefix, layout.prefix + sink_frames * layout.tokens_per_frame()};
  const TokenRange text[] = {prefix, suffix};
  const TokenRange keys[] = {prefix, suffix, sinks};
  TileMask mask(one_head_of(grid));
  mask.protect(text, keys);
  mask.protect(protected_tokens.queries, protected_tokens.keys);
  return mask;
}

std::vector<FramePart> frame_parts(const VideoLayout& layout, std::int64_t tile, int block) {
  const std::int64_t per_frame = layout.tokens_per_frame();
  const std::int64_t video_end = layout.frames * per_frame;
  const std::int64_t first = tile * block - layout.prefix;
  const std::int64_t end = std::min(first + block, video_end);
  std::vector<FramePart> parts;
  for (std::int64_t token = std::max<std::int64_t>(first, 0); token < end;) {
    const std::int64_t frame = token / per_frame;
    const std::int64_t frame_begin = frame * per_frame;
    const std::int64_t part_end = std::min(end, frame_begin + per_frame);
    parts.push_back({frame, token - frame_begin, part_end - frame_begin});
    token = part_end;
  }
  return parts;
}

}  // namespace saccade::baselines

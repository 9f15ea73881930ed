#include "methods/video_tokens.h"
#include "support/expect_error.h"

#include <saccade/baselines.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace saccade::baselines {
namespace {

using test::expect_error;
using test::grid_of;
using test::VideoToken;

constexpr VideoLayout kOdd = {.frames = 7, .height = 9, .width = 13, .prefix = 3, .suffix = 70};

using Number = std::int64_t (*)(const VideoLayout&, const VideoToken&);

std::int64_t frame_by_frame(const VideoLayout& layout, const VideoToken& token) {
  return token.frame * layout.height * layout.width + token.place;
}

std::int64_t place_by_place(const VideoLayout& layout, const VideoToken& token) {
  return token.place * layout.frames + token.frame;
}

// The header's definition, token by token.
TileMask nearest_by_tokens(const TileGrid& grid,
                           const VideoLayout& layout,
                           Number number,
                           std::int64_t wanted,
                           std::int64_t sink_frames) {
  TileMask mask = test::tiles_where(grid, layout, [&](const VideoToken& q, const VideoToken& k) {
    return q.is_text || k.is_text || k.frame < sink_frames;
  });
  // A tile with a text token is dense in the whole.
  const std::vector<VideoToken> tokens = test::tokens_of(layout);
  for (std::int64_t q_tile = 0; q_tile < grid.q_tiles(); ++q_tile) {
    std::vector<std::pair<std::int64_t, std::int64_t>> order;
    std::int64_t active = 0;
    for (std::int64_t k_tile = 0; k_tile < grid.k_tiles(); ++k_tile) {
      active += mask.test(0, 0, q_tile, k_tile);
      if (mask.test(0, 0, q_tile, k_tile)) continue;
      std::int64_t sum = 0;
      for (std::int64_t q = q_tile * grid.block_q;
           q < std::min((q_tile + 1) * grid.block_q, grid.q_len); ++q) {
        std::int64_t nearest = grid.q_len;
        for (std::int64_t k = k_tile * grid.block_k;
             k < std::min((k_tile + 1) * grid.block_k, grid.k_len); ++k) {
          nearest =
              std::min(nearest, std::abs(number(layout, tokens[q]) - number(layout, tokens[k])));
        }
        sum += nearest;
      }
      order.emplace_back(sum, k_tile);
    }
    std::sort(order.begin(), order.end());
    for (const auto& [distance, k_tile] : order) {
      if (active++ < wanted) mask.set(0, 0, q_tile, k_tile);
    }
  }
  return mask;
}

TEST(NearestTilesTest, AreThoseOfTheTokens) {
  for (const auto& [block_q, block_k] : {std::pair{64, 64}, {128, 64}, {64, 128}}) {
    const TileGrid grid = grid_of(kOdd, block_q, block_k);
    for (const std::int64_t wanted : {1, 4, 6}) {
      for (const std::int64_t sink_frames : {0, 1}) {
        const NearestOptions options = {.share = TileShare::of_count(wanted),
                                        .sink_frames = sink_frames};
        EXPECT_EQ(spatial_tiles(grid, kOdd, options),
                  nearest_by_tokens(grid, kOdd, frame_by_frame, wanted, sink_frames));
        EXPECT_EQ(temporal_tiles(grid, kOdd, options),
                  nearest_by_tokens(grid, kOdd, place_by_place, wanted, sink_frames));
      }
    }
  }
}

TEST(NearestTilesTest, SmallFramesShareTiles) {
  const VideoLayout layout = {.frames = 100, .height = 1, .width = 5};
  const TileGrid grid = grid_of(layout, 64, 64);
  const NearestOptions options = {.share = TileShare::of_count(3), .sink_frames = 0};
  EXPECT_EQ(spatial_tiles(grid, layout, options),
            nearest_by_tokens(grid, layout, frame_by_frame, 3, 0));
  EXPECT_EQ(temporal_tiles(grid, layout, options),
            nearest_by_tokens(grid, layout, place_by_place, 3, 0));
}

// Three frames of four tiles each.
TEST(NearestTilesTest, SpatialTilesAreNeighboursAndTemporalOnesTheSamePlaces) {
  const VideoLayout layout = {.frames = 3, .height = 16, .width = 16};
  const TileGrid grid = grid_of(layout, 64, 64);
  const NearestOptions options = {.share = TileShare::of_ratio(0.25), .sink_frames = 0};
  const TileMask spatial = spatial_tiles(grid, layout, options);
  const TileMask temporal = temporal_tiles(grid, layout, options);
  for (std::int64_t row = 0; row < 12; ++row) {
    const std::int64_t first = std::clamp<std::int64_t>(row - 1, 0, 9);
    EXPECT_EQ(spatial.ranges(row), (std::vector<TileRange>{{first, first + 3}})) << row;
    const std::int64_t place = row % 4;
    EXPECT_EQ(temporal.ranges(row),
              (std::vector<TileRange>{
                  {place, place + 1}, {place + 4, place + 5}, {place + 8, place + 9}}))
        << row;
  }
}

TEST(NearestTilesTest, RowsHoldTheirShareExactly) {
  const VideoLayout layout = {.frames = 7, .height = 9, .width = 13};
  TileGrid grid = grid_of(layout, 64, 64);  // 13 x 13 tiles
  grid.batch = 2;
  grid.heads = 2;
  for (const double share : {0.0, 0.3, 0.5, 1.0}) {
    const auto expected = std::max<std::int64_t>(2, static_cast<std::int64_t>(share * 13));
    const NearestOptions options = {.share = TileShare::of_ratio(share)};  // a sink of two tiles
    EXPECT_EQ(spatial_tiles(grid, layout, options).count(), 4 * 13 * expected) << share;
    EXPECT_EQ(temporal_tiles(grid, layout, options).count(), 4 * 13 * expected) << share;
  }
  const NearestOptions nothing = {.share = TileShare::of_ratio(0), .sink_frames = 0};
  EXPECT_EQ(spatial_tiles(grid, layout, nothing).count(), grid.rows());
}

TEST(NearestTilesTest, ProtectedTilesCountAndStay) {
  const VideoLayout layout = {.frames = 3, .height = 16, .width = 16};
  const TileGrid grid = grid_of(layout, 64, 64);
  const TokenRange queries[] = {{64, 65}};
  const TokenRange keys[] = {{10 * 64, 11 * 64}};
  const TileMask mask = temporal_tiles(
      grid, layout,
      {.share = TileShare::of_count(3), .sink_frames = 0, .protected_tokens = {queries, keys}});
  EXPECT_EQ(mask.ranges(0), (std::vector<TileRange>{{0, 1}, {4, 5}, {10, 11}}));
  EXPECT_EQ(mask.ranges(1), (std::vector<TileRange>{{0, 12}}));
}

TEST(NearestTilesTest, ErrorsNameTheLimit) {
  const TileGrid grid = grid_of(kOdd, 64, 64);
  const TokenRange backwards[] = {{5, 4}};
  expect_error<InvalidArgument>({"sink_frames is 8", "at most 7"},
                                [&] { spatial_tiles(grid, kOdd, {.sink_frames = 8}); });
  expect_error<InvalidArgument>({"[5, 4)"}, [&] {
    temporal_tiles(grid, kOdd, {.protected_tokens = {.queries = backwards}});
  });
  expect_error<InvalidArgument>({"q_len is 892", "the video has 1 tokens"},
                                [&] { temporal_tiles(grid, {}, {}); });
}

}  // namespace
}  // namespace saccade::baselines

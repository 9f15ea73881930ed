#include "methods/video_tokens.h"
#include "support/expect_error.h"

#include <saccade/baselines.h>

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

namespace saccade::baselines {
namespace {

using test::expect_error;
using test::grid_of;
using test::VideoToken;

constexpr VideoLayout kOdd = {.frames = 9, .height = 11, .width = 19, .prefix = 5, .suffix = 70};

// The header's rule, for two tokens.
bool meet(const VideoLayout& layout,
          const RadialOptions& options,
          const VideoToken& query,
          const VideoToken& key) {
  if (query.is_text || key.is_text || key.frame < options.sink_frames) return true;
  const std::int64_t d = std::abs(query.frame - key.frame);
  if (d == 0) return true;
  const auto s = static_cast<double>(layout.height * layout.width);
  const double w =
      options.decay * s / static_cast<double>(std::bit_floor(static_cast<std::uint64_t>(d)));
  const auto window = static_cast<double>(options.window);
  const auto apart = static_cast<double>(std::abs(query.place - key.place));
  return apart + 1 <= std::max(w, window) && std::fmod(d, std::ceil(window / w)) == 0;
}

// Section 4 of the paper, as it stands there: frames i and j, places k and l.
bool meet_in_the_paper(const VideoLayout& layout, const VideoToken& query, const VideoToken& key) {
  if (query.is_text || key.is_text) return true;
  const std::int64_t s = layout.height * layout.width;
  const std::int64_t distance = std::abs(query.frame - key.frame);
  const auto decay = static_cast<std::int64_t>(
      std::bit_floor(static_cast<std::uint64_t>(std::max<std::int64_t>(distance, 1))));
  const std::int64_t apart = std::abs(query.place - key.place);
  if (decay <= s && (apart + 1) * decay <= s) return true;
  return distance % ((decay + s - 1) / s) == 0 && apart == 0;
}

TEST(RadialTilesTest, IsTheRuleForPairsOfTokens) {
  for (const auto& [block_q, block_k] : {std::pair{64, 64}, {128, 64}, {64, 128}}) {
    const TileGrid grid = grid_of(kOdd, block_q, block_k);
    for (const RadialOptions& options :
         {RadialOptions{}, RadialOptions{.decay = 0.2, .window = 16, .sink_frames = 0},
          RadialOptions{.decay = 0.03, .window = 1, .sink_frames = 2},
          RadialOptions{.decay = 0.11, .window = 40, .sink_frames = 0}}) {
      const TileMask mask = radial_tiles(grid, kOdd, options);
      const TileMask expected =
          test::tiles_where(grid, kOdd, [&](const VideoToken& query, const VideoToken& key) {
            return meet(kOdd, options, query, key);
          });
      EXPECT_EQ(mask, expected) << block_q << " x " << block_k << ", decay " << options.decay;
    }
  }
}

TEST(RadialTilesTest, IsThePapersMaskByItsParameters) {
  for (const VideoLayout& layout :
       {VideoLayout{.frames = 33, .height = 5, .width = 13, .suffix = 9},
        VideoLayout{.frames = 300, .height = 1, .width = 3}}) {
    const TileGrid grid = grid_of(layout, 64, 64);
    const TileMask mask = radial_tiles(grid, layout, {.decay = 1, .window = 1, .sink_frames = 0});
    EXPECT_EQ(mask,
              test::tiles_where(grid, layout, [&](const VideoToken& query, const VideoToken& key) {
                return meet_in_the_paper(layout, query, key);
              }));
  }
}

// Frames of one tile and a window as wide: frames meet if their distance is a power of two.
TEST(RadialTilesTest, TilesOfARowGrowWithTheLogarithmOfTheFrames) {
  const VideoLayout layout = {.frames = 1024, .height = 8, .width = 8};
  const TileGrid grid = grid_of(layout, 64, 64);
  const TileMask mask = radial_tiles(grid, layout, {.window = 64, .sink_frames = 0});
  for (const std::int64_t row : {0, 5, 512, 1023}) {
    for (std::int64_t k_tile = 0; k_tile < 1024; ++k_tile) {
      const auto distance = static_cast<std::uint64_t>(std::abs(row - k_tile));
      EXPECT_EQ(mask.test(0, 0, row, k_tile), distance == 0 || std::has_single_bit(distance))
          << row << ", " << k_tile;
    }
  }
  EXPECT_LE(mask.count(), 1024 * (1 + 2 * 10));
}

TEST(RadialTilesTest, IsSymmetricWithoutSinks) {
  const TileGrid grid = grid_of(kOdd, 64, 64);
  const TileMask mask = radial_tiles(grid, kOdd, {.decay = 0.2, .window = 20, .sink_frames = 0});
  EXPECT_LT(mask.count(), grid.tiles());
  for (std::int64_t i = 0; i < grid.q_tiles(); ++i) {
    for (std::int64_t j = 0; j < i; ++j) {
      EXPECT_EQ(mask.test(0, 0, i, j), mask.test(0, 0, j, i)) << i << ", " << j;
    }
  }
}

TEST(RadialTilesTest, SparseMasksAreNestedInDenserOnes) {
  const TileGrid grid = grid_of(kOdd, 64, 64);
  const TileMask sparse = radial_tiles(grid, kOdd, {.decay = 0.1, .window = 8});
  const TileMask dense = radial_tiles(grid, kOdd, {.decay = 0.5, .window = 8});
  EXPECT_LT(sparse.count(), dense.count());
  EXPECT_EQ(TileMask(sparse) |= dense, dense);
}

TEST(RadialTilesTest, HoldsForEveryHeadAndProtectsTokens) {
  TileGrid grid = grid_of(kOdd, 128, 64);
  const RadialOptions plain = {.decay = 0.1, .window = 8, .sink_frames = 0};
  const TileMask one = radial_tiles(grid, kOdd, plain);
  grid.batch = 2;
  grid.heads = 3;
  TileMask expected(grid);
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    expected.set_ranges(row, one.ranges(row % grid.q_tiles()));
  }
  EXPECT_EQ(radial_tiles(grid, kOdd, plain), expected);

  const TokenRange queries[] = {{700, 701}};
  const TokenRange keys[] = {{1000, 1100}};
  RadialOptions protecting = plain;
  protecting.protected_tokens = {queries, keys};
  expected.protect(queries, keys);
  EXPECT_EQ(radial_tiles(grid, kOdd, protecting), expected);
}

TEST(RadialTilesTest, ExtremeParametersAreLegal) {
  const TileGrid grid = grid_of(kOdd, 64, 64);
  EXPECT_EQ(radial_tiles(grid, kOdd, {.decay = std::numeric_limits<double>::max()}),
            TileMask::full(grid));
  EXPECT_EQ(radial_tiles(grid, kOdd, {.sink_frames = 9}), TileMask::full(grid));
  const RadialOptions own_frame = {.decay = std::numeric_limits<double>::denorm_min(),
                                   .window = std::numeric_limits<std::int64_t>::max(),
                                   .sink_frames = 0};
  EXPECT_EQ(radial_tiles(grid, kOdd, own_frame),
            test::tiles_where(grid, kOdd, [](const VideoToken& query, const VideoToken& key) {
              return query.is_text || key.is_text || query.frame == key.frame;
            }));
}

TEST(RadialTilesTest, ErrorsNameTheLimit) {
  const TileGrid grid = grid_of(kOdd, 64, 64);
  const auto refuses = [&](const test::MessageParts& parts, const VideoLayout& layout,
                           const RadialOptions& options) {
    expect_error<InvalidArgument>(parts, [&] { radial_tiles(grid, layout, options); });
  };
  refuses({"decay is 0", "positive"}, kOdd, {.decay = 0});
  refuses({"decay is nan"}, kOdd, {.decay = std::numeric_limits<double>::quiet_NaN()});
  refuses({"decay is inf"}, kOdd, {.decay = std::numeric_limits<double>::infinity()});
  refuses({"window is 0", "at least 1"}, kOdd, {.window = 0});
  refuses({"sink_frames is 10", "at most 9"}, kOdd, {.sink_frames = 10});
  refuses({"sink_frames is -1", "at least 0"}, kOdd, {.sink_frames = -1});
  VideoLayout layout = kOdd;
  layout.frames = 0;
  refuses({"frames is 0", "at least 1"}, layout, {});
  layout = kOdd;
  layout.prefix = -1;
  refuses({"prefix is -1", "at least 0"}, layout, {});
  layout = kOdd;
  layout.height = layout.width = std::int64_t{1} << 30;
  refuses({"a frame has"}, layout, {});
  layout = kOdd;
  layout.suffix = 71;
  refuses({"q_len is 1956", "the video has 1957 tokens: 5 of text, 9 frames of 11 x 19, 71"},
          layout, {});
  TileGrid other = grid;
  other.k_len = 77;  // cross-attention
  expect_error<InvalidArgument>({"k_len is 77", "1956"}, [&] { radial_tiles(other, kOdd, {}); });
}

}  // namespace
}  // namespace saccade::baselines

#include "support/expect_error.h"

#include <saccade/baselines.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace saccade::baselines {
namespace {

using test::expect_error;

const TileGrid kGrid = {.batch = 2, .heads = 3, .q_len = 700, .k_len = 1100};  // 6 x 18 tiles

TileMask head_of(const TileMask& mask, std::int64_t batch, std::int64_t head) {
  TileGrid grid = mask.grid();
  grid.batch = grid.heads = 1;
  TileMask result(grid);
  for (std::int64_t row = 0; row < grid.q_tiles(); ++row) {
    result.set_ranges(row, mask.ranges(mask.view().row_index(batch, head, row)));
  }
  return result;
}

void expect_no_empty_row(const TileMask& mask) {
  for (std::int64_t row = 0; row < mask.grid().rows(); ++row) {
    EXPECT_FALSE(mask.ranges(row).empty()) << row;
  }
}

TEST(RandomTilesTest, EveryHeadHasExactlyAsManyTilesAsAskedFor) {
  for (const double sparsity : {0.0, 0.1, 0.5, 0.77, 0.9, 0.95, 1.0}) {
    const TileMask mask = random_tiles(kGrid, sparsity, 7);
    const auto expected = std::max<std::int64_t>(6, std::llround((1 - sparsity) * 6 * 18));
    for (int batch = 0; batch < 2; ++batch) {
      for (int head = 0; head < 3; ++head) {
        EXPECT_EQ(head_of(mask, batch, head).count(), expected) << sparsity;
      }
    }
    expect_no_empty_row(mask);
  }
}

// Words that were computed from the definition of std::mt19937_64 by another program.
TEST(RandomTilesTest, IsTheSameOnEveryPlatform) {
  const TileGrid grid = {
      .batch = 1, .heads = 1, .q_len = 256, .k_len = 640, .block_q = 64, .block_k = 64};
  const TileMask mask = random_tiles(grid, 0.7, 1);
  const std::uint64_t expected[] = {0x92, 0x3, 0x78, 0x111};
  for (std::int64_t row = 0; row < 4; ++row) EXPECT_EQ(*mask.view().row(row), expected[row]) << row;
}

TEST(RandomTilesTest, SeedsAndHeadsDiffer) {
  const TileMask mask = random_tiles(kGrid, 0.5, 1);
  EXPECT_EQ(mask, random_tiles(kGrid, 0.5, 1));
  EXPECT_NE(mask, random_tiles(kGrid, 0.5, 2));
  EXPECT_NE(head_of(mask, 0, 0), head_of(mask, 0, 1));
  EXPECT_NE(head_of(mask, 0, 0), head_of(mask, 1, 0));
}

// Each of n = 400 heads keeps a tile with probability p = 1/2; the number of them is within six
// standard deviations, 6 * sqrt(n p (1 - p)) = 60, of its mean.
TEST(RandomTilesTest, NoTileIsPreferred) {
  const TileGrid grid = {.batch = 1, .heads = 400, .q_len = 256, .k_len = 1024};
  const TileMask mask = random_tiles(grid, 0.5, 3);
  for (std::int64_t q_tile = 0; q_tile < 2; ++q_tile) {
    for (std::int64_t k_tile = 0; k_tile < 16; ++k_tile) {
      int heads = 0;
      for (std::int64_t head = 0; head < 400; ++head) heads += mask.test(0, head, q_tile, k_tile);
      EXPECT_NEAR(heads, 200, 60) << q_tile << ", " << k_tile;
    }
  }
}

TEST(RandomTilesTest, ProtectedTilesCountAndStay) {
  const TokenRange queries[] = {{130, 131}};
  const TokenRange keys[] = {{63, 65}};
  const ProtectedTokens protected_tokens = {queries, keys};
  TileMask required(kGrid);
  required.protect(queries, keys);
  const TileMask half = random_tiles(kGrid, 0.5, 0, protected_tokens);
  EXPECT_EQ(half.count(), 6 * 54);
  EXPECT_EQ(TileMask(half) |= required, half);
  EXPECT_EQ(random_tiles(kGrid, 1, 0, protected_tokens), required);
}

TEST(RandomTilesTest, ErrorsNameTheLimit) {
  const TokenRange beyond[] = {{0, 1101}};
  expect_error<InvalidArgument>({"sparsity is 1.5", "[0, 1]", "nearest legal choice is 1"},
                                [] { random_tiles(kGrid, 1.5, 0); });
  expect_error<InvalidArgument>({"sparsity is nan"}, [] {
    random_tiles(kGrid, std::numeric_limits<double>::quiet_NaN(), 0);
  });
  expect_error<InvalidArgument>({"block_q is 32"}, [] {
    random_tiles({.batch = 1, .heads = 1, .q_len = 9, .k_len = 9, .block_q = 32}, 0, 0);
  });
  expect_error<InvalidArgument>({"[0, 1101)", "1100"},
                                [&] { random_tiles(kGrid, 0.5, 0, {.keys = beyond}); });
}

}  // namespace
}  // namespace saccade::baselines

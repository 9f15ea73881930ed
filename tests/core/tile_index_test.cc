#include "grid_name.h"

#include <saccade/error.h>
#include <saccade/tile_index.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

namespace saccade {
namespace {

using Tiles = std::vector<std::int32_t>;

constexpr VisitOrder kOrders[] = {VisitOrder::linear, VisitOrder::reversed, VisitOrder::radial,
                                  VisitOrder::strongest};
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Rows of tiles that end before, at and after a word's end; wide, tall and square problems.
const TileGrid kGrids[] = {
    {1, 1, 1, 1, 128, 64},
    {2, 3, 300, 63 * 64, 128, 64},
    {1, 2, 40 * 64, 64 * 128, 64, 128},
    {3, 1, 65 * 64, 64 * 64 + 1, 64, 64},
    {1, 2, 5000, 130 * 128 - 5, 128, 128},
    {1, 1, 3000, 70, 64, 128},
};

TileMask random_mask(const TileGrid& grid, double active_share, std::mt19937& random) {
  std::bernoulli_distribution is_active(active_share);
  std::vector<std::uint8_t> active(grid.tiles());
  for (std::uint8_t& tile : active) tile = is_active(random);
  return TileMask::from_dense(grid, active);
}

// Few values, so that there are ties, and those that float comparisons get wrong.
std::vector<float> random_priorities(const TileGrid& grid, std::mt19937& random) {
  constexpr float kValues[] = {kNaN, -kNaN, kInfinity, -kInfinity, 0.0f, -0.0f, -1.5f, -1e30f, 2};
  std::uniform_int_distribution<std::size_t> pick(0, std::size(kValues) - 1);
  std::vector<float> priorities(grid.tiles());
  for (float& priority : priorities) priority = kValues[pick(random)];
  return priorities;
}

// Sorts the active tiles below `limit` by what the order says of a tile.
Tiles expected_list(const TileMaskView& mask,
                    std::int64_t row,
                    std::int64_t limit,
                    VisitOrder order,
                    const std::vector<float>& priorities) {
  Tiles tiles;
  for (std::int64_t tile = 0; tile < std::min(limit, mask.grid.k_tiles()); ++tile) {
    if (mask.test(row, tile)) tiles.push_back(static_cast<std::int32_t>(tile));
  }
  const std::int64_t centre = diagonal_tile(mask.grid, row % mask.grid.q_tiles());
  std::sort(tiles.begin(), tiles.end(), [&](std::int64_t a, std::int64_t b) {
    if (order == VisitOrder::linear) return a < b;
    if (order == VisitOrder::reversed) return a > b;
    if (order == VisitOrder::strongest) {
      const auto key = [&](std::int64_t tile) {
        const float priority = priorities[row * mask.grid.k_tiles() + tile];
        return std::isnan(priority) ? std::tuple(0, 0.0f, tile) : std::tuple(1, -priority, tile);
      };
      return key(a) < key(b);
    }
    return std::tuple(std::abs(a - centre), a) < std::tuple(std::abs(b - centre), b);
  });
  return tiles;
}

class TileIndexTest : public testing::TestWithParam<TileGrid> {
 protected:
  const TileGrid grid_ = GetParam();
  std::mt19937 random_{11};
  const std::vector<float> priorities_ = random_priorities(grid_, random_);
};

TEST_P(TileIndexTest, ListRowFollowsTheOrderUpToTheLimit) {
  for (const double active_share : {0.0, 0.1, 0.5, 1.0}) {
    const TileMask mask = random_mask(grid_, active_share, random_);
    for (std::int64_t row = 0; row < grid_.rows(); ++row) {
      const std::int64_t limit =
          std::uniform_int_distribution<std::int64_t>(0, grid_.k_tiles() + 2)(random_);
      for (const VisitOrder order : kOrders) {
        Tiles tiles(grid_.k_tiles(), -1);
        const std::int64_t count =
            list_row(grid_, mask.view().row(row), row % grid_.q_tiles(), limit, order,
                     priorities_.data() + row * grid_.k_tiles(), tiles.data());
        Tiles expected = expected_list(mask.view(), row, limit, order, priorities_);
        ASSERT_EQ(count, std::ssize(expected));
        expected.resize(tiles.size(), -1);  // nothing is written behind the list
        ASSERT_EQ(tiles, expected) << name_of(order) << ", row " << row << ", limit " << limit;
      }
    }
  }
}

TEST_P(TileIndexTest, ListRowWithoutAMaskListsEveryTile) {
  const TileMask full = TileMask::full(grid_);
  for (std::int64_t q_tile = 0; q_tile < grid_.q_tiles(); ++q_tile) {
    for (const VisitOrder order : kOrders) {
      for (const std::int64_t limit : {std::int64_t{0}, grid_.k_tiles() / 2, grid_.k_tiles()}) {
        Tiles tiles(grid_.k_tiles());
        tiles.resize(list_row(grid_, nullptr, q_tile, limit, order,
                              priorities_.data() + q_tile * grid_.k_tiles(), tiles.data()));
        ASSERT_EQ(tiles, expected_list(full.view(), q_tile, limit, order, priorities_));
      }
    }
  }
}

TEST_P(TileIndexTest, RowsListEveryRowInOrder) {
  const TileMask mask = random_mask(grid_, 0.3, random_);
  for (const VisitOrder order : kOrders) {
    const TileIndex index = TileIndex::rows(mask.view(), order, priorities_.data());
    ASSERT_EQ(index.lists(), grid_.rows());
    EXPECT_EQ(index.offsets.back(), mask.count());
    EXPECT_EQ(std::ssize(index.tiles), mask.count());
    for (std::int64_t row = 0; row < grid_.rows(); ++row) {
      const Tiles list(index.list(row).begin(), index.list(row).end());
      ASSERT_EQ(list, expected_list(mask.view(), row, grid_.k_tiles(), order, priorities_));
    }
  }
}

TEST_P(TileIndexTest, ColumnsListEveryColumnAscending) {
  const TileMask mask = random_mask(grid_, 0.3, random_);
  const TileIndex index = TileIndex::columns(mask.view());
  ASSERT_EQ(index.lists(), grid_.batch * grid_.heads * grid_.k_tiles());
  EXPECT_EQ(std::ssize(index.tiles), mask.count());
  for (std::int64_t i = 0; i < index.lists(); ++i) {
    const std::int64_t first_row = i / grid_.k_tiles() * grid_.q_tiles();
    Tiles expected;
    for (std::int64_t q_tile = 0; q_tile < grid_.q_tiles(); ++q_tile) {
      if (mask.view().test(first_row + q_tile, i % grid_.k_tiles())) {
        expected.push_back(static_cast<std::int32_t>(q_tile));
      }
    }
    ASSERT_EQ(Tiles(index.list(i).begin(), index.list(i).end()), expected);
  }
}

// The tile whose keys hold the point that divides k as the row's middle divides q.
TEST_P(TileIndexTest, DiagonalTileHoldsTheRowsMiddle) {
  for (std::int64_t q_tile = 0; q_tile < grid_.q_tiles(); ++q_tile) {
    const std::int64_t tile = diagonal_tile(grid_, q_tile);
    const double middle = (static_cast<double>(q_tile) + 0.5) * grid_.block_q;
    const double key = middle * static_cast<double>(grid_.k_len) / static_cast<double>(grid_.q_len);
    // One key of slack for the rounding of `key` at a tile's border.
    EXPECT_GE(key, static_cast<double>(tile * grid_.block_k) - 1);
    if (tile < grid_.k_tiles() - 1) {
      EXPECT_LE(key, static_cast<double>((tile + 1) * grid_.block_k) + 1);
    }
    EXPECT_LT(tile, grid_.k_tiles());
  }
}

INSTANTIATE_TEST_SUITE_P(Grids, TileIndexTest, testing::ValuesIn(kGrids), grid_name);

TEST(DiagonalTileTest, IsTheDiagonalOfASquareProblem) {
  for (const std::int64_t length : {std::int64_t{1}, std::int64_t{1000}, std::int64_t{32760},
                                    std::int64_t{std::numeric_limits<std::int32_t>::max()}}) {
    for (const int block : {64, 128}) {
      const TileGrid grid{1, 1, length, length, block, block};
      for (const std::int64_t tile : {std::int64_t{0}, grid.q_tiles() / 2, grid.q_tiles() - 1}) {
        EXPECT_EQ(diagonal_tile(grid, tile), tile) << length;
      }
    }
  }
}

TEST(DiagonalTileTest, RoundsDownExactly) {
  // The middle of row 1 is query 192 of 512, key 96 of 256: the middle of key tile 1.
  EXPECT_EQ(diagonal_tile({1, 1, 512, 256, 128, 64}, 1), 1);
  // The middle of row 0 is query 64 of 512, key 128 of 1024: the first key of key tile 2.
  EXPECT_EQ(diagonal_tile({1, 1, 512, 1024, 128, 64}, 0), 2);
  // One key fewer moves it into tile 1.
  EXPECT_EQ(diagonal_tile({1, 1, 512, 1023, 128, 64}, 0), 1);
}

TEST(DiagonalTileTest, StaysInsideWhereTheLastRowIsPartial) {
  // The middle of the row's 128 queries lies beyond the only one that exists.
  EXPECT_EQ(diagonal_tile({1, 1, 1, 640, 128, 64}, 0), 9);
}

TEST(VisitOrderTest, HasAName) {
  EXPECT_EQ(name_of(VisitOrder::linear), "linear");
  EXPECT_EQ(name_of(VisitOrder::reversed), "reversed");
  EXPECT_EQ(name_of(VisitOrder::radial), "radial");
  EXPECT_EQ(name_of(VisitOrder::strongest), "strongest");
  EXPECT_THROW(name_of(static_cast<VisitOrder>(9)), InvalidArgument);
}

TEST(VisitOrderTest, RadialStartsAtTheDiagonalAndTakesTheLowerTileFirst) {
  const TileGrid grid{1, 1, 7 * 64, 7 * 64, 64, 64};
  Tiles tiles(7);
  ASSERT_EQ(list_row(grid, nullptr, 2, 7, VisitOrder::radial, nullptr, tiles.data()), 7);
  EXPECT_EQ(tiles, (Tiles{2, 1, 3, 0, 4, 5, 6}));
}

TEST(VisitOrderTest, StrongestTakesNaNFirstAndMinusInfinityLast) {
  const TileGrid grid{1, 1, 64, 9 * 64, 64, 64};
  const float priorities[] = {-2, -kInfinity, kNaN, 0, -2, kInfinity, -0.0f, kNaN, -kInfinity};
  Tiles tiles(9);
  ASSERT_EQ(list_row(grid, nullptr, 0, 9, VisitOrder::strongest, priorities, tiles.data()), 9);
  EXPECT_EQ(tiles, (Tiles{2, 7, 5, 3, 6, 0, 4, 1, 8}));
}

TEST(TileIndexErrorTest, StrongestNeedsPriorities) {
  const TileMask mask = TileMask::full({1, 1, 64, 64, 64, 64});
  EXPECT_THROW(TileIndex::rows(mask.view(), VisitOrder::strongest), InvalidArgument);
}

TEST(TileIndexErrorTest, NeedsAHostMask) {
  EXPECT_THROW(TileIndex::rows(TileMaskView{}), InvalidArgument);
  EXPECT_THROW(TileIndex::columns(TileMaskView{}), InvalidArgument);
}

}  // namespace
}  // namespace saccade

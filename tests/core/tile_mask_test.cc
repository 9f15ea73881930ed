#include "grid_name.h"

#include <saccade/error.h>
#include <saccade/tile_mask.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <vector>

// Every operation is compared with a model that spends one byte per tile.

namespace saccade {
namespace {

using Dense = std::vector<std::uint8_t>;  // [batch, heads, q_tiles, k_tiles], each 0 or 1

// Rows and columns of tiles that end before, at and after a word's end; partial tiles on both axes.
const TileGrid kGrids[] = {
    {1, 1, 1, 1, 128, 64},
    {2, 3, 300, 63 * 64, 128, 64},
    {1, 2, 129, 64 * 128, 64, 128},
    {3, 1, 66 * 64, 64 * 64 + 1, 64, 64},
    {1, 2, 500, 130 * 128 - 5, 128, 128},
};

Dense random_dense(const TileGrid& grid, std::mt19937& random, double active_share = 0.5) {
  std::bernoulli_distribution is_active(active_share);
  Dense dense(grid.tiles());
  for (std::uint8_t& tile : dense) tile = is_active(random);
  return dense;
}

void expect_equals_model(const TileMask& mask, const Dense& model) {
  EXPECT_EQ(mask.to_dense(), model);
  EXPECT_EQ(mask.count(), std::count(model.begin(), model.end(), 1));
  const TileGrid& grid = mask.grid();
  for (std::int64_t i = 0; i < grid.words(); ++i) {
    const std::int64_t word = i % grid.words_per_row();
    ASSERT_EQ(mask.view().words[i] & ~grid.valid_bits(word), 0u) << "padding of word " << i;
  }
}

template <typename Function>
std::string message_of(Function function) {
  try {
    function();
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "no error";
}

class TileMaskTest : public testing::TestWithParam<TileGrid> {
 protected:
  const TileGrid grid_ = GetParam();
  std::mt19937 random_{7};
};

TEST_P(TileMaskTest, StartsEmptyOrFull) {
  expect_equals_model(TileMask(grid_), Dense(grid_.tiles(), 0));
  expect_equals_model(TileMask::full(grid_), Dense(grid_.tiles(), 1));
  EXPECT_EQ(TileMask(grid_).sparsity(), 1.0);
  EXPECT_EQ(TileMask::full(grid_).sparsity(), 0.0);
}

TEST_P(TileMaskTest, FromDenseTakesAnyNonzeroByte) {
  const Dense model = random_dense(grid_, random_);
  Dense bytes = model;
  for (std::uint8_t& byte : bytes) byte *= 254;
  expect_equals_model(TileMask::from_dense(grid_, bytes), model);
}

TEST_P(TileMaskTest, SetAndTestAddressOneTile) {
  Dense model = random_dense(grid_, random_);
  TileMask mask = TileMask::from_dense(grid_, model);
  for (int i = 0; i < 200; ++i) {
    std::int64_t tile = std::uniform_int_distribution<std::int64_t>(0, grid_.tiles() - 1)(random_);
    const bool active = random_() % 2 == 0;
    model[tile] = active;
    const std::int64_t k_tile = tile % grid_.k_tiles();
    const std::int64_t q_tile = (tile /= grid_.k_tiles()) % grid_.q_tiles();
    const std::int64_t head = (tile /= grid_.q_tiles()) % grid_.heads;
    mask.set(tile / grid_.heads, head, q_tile, k_tile, active);
    ASSERT_EQ(mask.test(tile / grid_.heads, head, q_tile, k_tile), active);
  }
  expect_equals_model(mask, model);
}

TEST_P(TileMaskTest, SetOperationsActTileByTile) {
  for (int i = 0; i < 10; ++i) {
    const Dense left = random_dense(grid_, random_);
    const Dense right = random_dense(grid_, random_);
    TileMask united = TileMask::from_dense(grid_, left);
    TileMask common = united;
    TileMask difference = united;
    const TileMask other = TileMask::from_dense(grid_, right);
    united |= other;
    common &= other;
    difference -= other;

    Dense model(left.size());
    const auto expect = [&](const TileMask& mask, auto operation) {
      std::transform(left.begin(), left.end(), right.begin(), model.begin(), operation);
      expect_equals_model(mask, model);
    };
    expect(united, [](bool a, bool b) { return a || b; });
    expect(common, [](bool a, bool b) { return a && b; });
    expect(difference, [](bool a, bool b) { return a && !b; });
    expect(~TileMask::from_dense(grid_, left), [](bool a, bool) { return !a; });
  }
}

TEST_P(TileMaskTest, ComparesGridAndTiles) {
  const Dense model = random_dense(grid_, random_);
  const TileMask mask = TileMask::from_dense(grid_, model);
  TileMask other = mask;
  EXPECT_EQ(mask, other);
  other.set(0, 0, 0, 0, !mask.test(0, 0, 0, 0));
  EXPECT_NE(mask, other);
  EXPECT_EQ(mask, ~~mask);

  TileGrid longer = grid_;
  ++longer.heads;
  EXPECT_NE(TileMask(grid_), TileMask(longer));
}

TEST_P(TileMaskTest, RangesAreTheRunsOfARow) {
  for (const double active_share : {0.0, 0.05, 0.5, 0.95, 1.0}) {
    const Dense model = random_dense(grid_, random_, active_share);
    const TileMask mask = TileMask::from_dense(grid_, model);
    TileMask copy(grid_);
    for (std::int64_t row = 0; row < grid_.rows(); ++row) {
      const std::vector<TileRange> ranges = mask.ranges(row);
      Dense tiles(grid_.k_tiles(), 0);
      std::int64_t end_before = -1;
      for (const auto& [begin, end] : ranges) {
        ASSERT_LT(end_before, begin) << "ranges overlap or touch";
        ASSERT_LT(begin, end);
        std::fill(tiles.begin() + begin, tiles.begin() + end, 1);
        end_before = end;
      }
      const auto expected = model.begin() + row * grid_.k_tiles();
      ASSERT_EQ(tiles, Dense(expected, expected + grid_.k_tiles()));
      copy.set_ranges(row, ranges);
    }
    EXPECT_EQ(copy, mask);
  }
}

TEST_P(TileMaskTest, SetRangesReplacesTheRowByTheUnion) {
  Dense model = random_dense(grid_, random_);
  TileMask mask = TileMask::from_dense(grid_, model);
  std::uniform_int_distribution<std::int64_t> border(0, grid_.k_tiles());
  for (std::int64_t row = 0; row < grid_.rows(); row += 2) {
    const auto tiles = model.begin() + row * grid_.k_tiles();
    std::fill_n(tiles, grid_.k_tiles(), 0);
    std::vector<TileRange> ranges;
    for (int i = 0; i < 3; ++i) {
      const auto [begin, end] = std::minmax({border(random_), border(random_)});
      ranges.push_back({begin, end});
      std::fill(tiles + begin, tiles + end, 1);
    }
    mask.set_ranges(row, ranges);
  }
  expect_equals_model(mask, model);
}

TEST_P(TileMaskTest, ProtectRoundsOutward) {
  const auto random_range = [&](std::int64_t length) {
    std::uniform_int_distribution<std::int64_t> token(0, length);
    const auto [begin, end] = std::minmax({token(random_), token(random_)});
    return TokenRange{begin, end};
  };
  const auto holds = [](const TokenRange& range, std::int64_t tile, int block) {
    return range.begin < range.end && range.begin < (tile + 1) * block && range.end > tile * block;
  };
  for (int i = 0; i < 10; ++i) {
    const TokenRange queries[] = {random_range(grid_.q_len), random_range(grid_.q_len)};
    const TokenRange keys[] = {random_range(grid_.k_len), random_range(grid_.k_len)};
    Dense model = random_dense(grid_, random_, 0.2);
    TileMask mask = TileMask::from_dense(grid_, model);
    mask.protect(queries, keys);
    for (std::int64_t tile = 0; tile < grid_.tiles(); ++tile) {
      const std::int64_t k_tile = tile % grid_.k_tiles();
      const std::int64_t q_tile = tile / grid_.k_tiles() % grid_.q_tiles();
      for (const TokenRange& range : queries) model[tile] |= holds(range, q_tile, grid_.block_q);
      for (const TokenRange& range : keys) model[tile] |= holds(range, k_tile, grid_.block_k);
    }
    expect_equals_model(mask, model);
  }
}

INSTANTIATE_TEST_SUITE_P(Grids, TileMaskTest, testing::ValuesIn(kGrids), grid_name);

TEST(TileMaskProtectTest, EmptyRangesProtectNothing) {
  TileMask mask({1, 1, 256, 256, 128, 64});
  const TokenRange empty[] = {{0, 0}, {70, 70}, {256, 256}};
  mask.protect(empty, empty);
  EXPECT_EQ(mask.count(), 0);
}

TEST(TileMaskProtectTest, TheLastTokenProtectsThePartialTile) {
  TileMask mask({1, 1, 129, 65, 128, 64});
  const TokenRange last_query[] = {{128, 129}};
  const TokenRange last_key[] = {{64, 65}};
  mask.protect(last_query, last_key);
  EXPECT_EQ(mask.to_dense(), (Dense{0, 1, 1, 1}));
}

TEST(TileMaskErrorTest, SetOperationsNeedEqualGrids) {
  const TileGrid grid{1, 2, 256, 256, 128, 64};
  const TileMask other({1, 2, 256, 255, 128, 64});  // as many words and tiles
  TileMask mask = TileMask::full(grid);
  EXPECT_EQ(message_of([&] { mask |= other; }),
            "the other mask belongs to another grid (batch 1, heads 2, q_len 256, k_len 255, "
            "tiles of 128 x 64) than this call (batch 1, heads 2, q_len 256, k_len 256, "
            "tiles of 128 x 64)");
  EXPECT_THROW(mask &= other, InvalidArgument);
  EXPECT_THROW(mask -= other, InvalidArgument);
  EXPECT_EQ(mask, TileMask::full(grid));
}

TEST(TileMaskErrorTest, IndicesAreChecked) {
  TileMask mask({2, 3, 256, 256, 128, 64});
  EXPECT_EQ(message_of([&] { mask.set(0, 0, 0, 4); }),
            "k_tile is 4, but must be at least 0 and at most 3");
  EXPECT_THROW(mask.set(2, 0, 0, 0), InvalidArgument);
  EXPECT_THROW(mask.set(0, 3, 0, 0), InvalidArgument);
  EXPECT_THROW(mask.test(0, 0, 2, 0), InvalidArgument);
  EXPECT_THROW(mask.test(-1, 0, 0, 0), InvalidArgument);
  EXPECT_THROW(mask.ranges(12), InvalidArgument);
  EXPECT_THROW(mask.set_ranges(-1, {}), InvalidArgument);
}

TEST(TileMaskErrorTest, RangesAreCheckedBeforeAnythingChanges) {
  TileMask mask({1, 1, 256, 256, 128, 64});
  const TileRange beyond[] = {{0, 1}, {2, 5}};
  const TileRange backwards[] = {{0, 1}, {3, 2}};
  EXPECT_EQ(message_of([&] { mask.set_ranges(0, beyond); }),
            "ranges holds the range [2, 5), but needs 0 <= begin <= end <= 4");
  EXPECT_THROW(mask.set_ranges(0, backwards), InvalidArgument);

  const TokenRange good[] = {{0, 256}};
  const TokenRange bad[] = {{0, 257}};
  EXPECT_EQ(message_of([&] { mask.protect(bad, good); }),
            "query_ranges holds the range [0, 257), but needs 0 <= begin <= end <= 256");
  EXPECT_THROW(mask.protect(good, bad), InvalidArgument);
  EXPECT_EQ(mask.count(), 0);
}

TEST(TileMaskErrorTest, FromDenseNeedsOneByteForEachTile) {
  const TileGrid grid{1, 2, 256, 256, 128, 64};
  EXPECT_EQ(message_of([&] { TileMask::from_dense(grid, Dense(15)); }),
            "active has 15 elements, but needs 16: one for each tile");
}

TEST(TileMaskErrorTest, GridsAreChecked) {
  EXPECT_THROW(TileMask({1, 1, 0, 1, 128, 64}), InvalidArgument);
  EXPECT_THROW(TileMask::full({1, 1, 1, 1, 100, 64}), InvalidArgument);
}

TEST(CountActiveTest, NeedsAHostMask) {
  EXPECT_THROW(count_active(TileMaskView{}), InvalidArgument);
  TileMaskView view = TileMask({1, 1, 1, 1, 64, 64}).view();
  view.device = {DeviceType::cuda, 0};
  EXPECT_THROW(count_active(view), Unsupported);
}

}  // namespace
}  // namespace saccade

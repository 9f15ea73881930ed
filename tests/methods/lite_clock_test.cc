#include <saccade/error.h>
#include <saccade/lite.h>

#include <gtest/gtest.h>

#include <limits>

namespace saccade::lite {
namespace {

TEST(LiteClockTest, CountsFallingTimesteps) {
  Clock clock;
  EXPECT_EQ(clock.advance(999.0), 0);
  EXPECT_EQ(clock.advance(999.0), 0);  // the other guidance branch
  EXPECT_EQ(clock.advance(750.5), 1);
  EXPECT_EQ(clock.advance(750.5), 1);
  EXPECT_EQ(clock.advance(0.0), 2);
  EXPECT_EQ(clock.advance(999.0), 0);  // the next generation
  EXPECT_THROW(clock.advance(std::numeric_limits<double>::quiet_NaN()), InvalidArgument);
  EXPECT_EQ(clock.advance(998.0), 1);  // the refused call left no trace
}

TEST(LiteStateTest, ResetsAtEveryNewGenerationAndProblem) {
  const TileGrid grid = {.batch = 1, .heads = 2, .q_len = 300, .k_len = 300};
  TileGrid longer = grid;
  longer.k_len = 301;
  TileGrid more = grid;
  more.batch = 2;
  TileGrid other_tiles = grid;
  other_tiles.block_k = 128;
  EXPECT_TRUE(must_reset(std::nullopt, {grid, 5}));
  EXPECT_FALSE(must_reset(LastCall{grid, 4}, {grid, 5}));
  EXPECT_FALSE(must_reset(LastCall{grid, 5}, {grid, 5}));  // the same step once more
  EXPECT_FALSE(must_reset(LastCall{grid, 1}, {grid, 5}));  // a cache skipped some calls
  EXPECT_TRUE(must_reset(LastCall{grid, 5}, {grid, 4}));
  EXPECT_TRUE(must_reset(LastCall{grid, 0}, {grid, 0}));  // generations of a single step
  EXPECT_TRUE(must_reset(LastCall{grid, 4}, {longer, 5}));
  EXPECT_TRUE(must_reset(LastCall{grid, 4}, {more, 5}));
  EXPECT_TRUE(must_reset(LastCall{grid, 4}, {other_tiles, 5}));
}

}  // namespace
}  // namespace saccade::lite

#include "support/expect_error.h"

#include <saccade/lite_schedule.h>

namespace saccade::lite {
namespace {

using Tiles = std::vector<TileRange>;

const TileGrid kGrid = {
    .batch = 1, .heads = 1, .q_len = 300, .k_len = 1000, .block_q = 128, .block_k = 64};

TEST(LiteScheduleTilesTest, MustDoIsRoundedOutward) {
  const ScheduledTiles tiles = resolve_tiles(
      {.must_do_queries = {{127, 129}}, .must_do_keys = {{64, 128}, {999, 1000}}}, kGrid);
  EXPECT_EQ(tiles.must_do_queries, (Tiles{{0, 2}}));
  EXPECT_EQ(tiles.must_do_keys, (Tiles{{1, 2}, {15, 16}}));
}

TEST(LiteScheduleTilesTest, MustDoTilesAreMerged) {
  const ScheduledTiles tiles =
      resolve_tiles({.must_do_keys = {{0, 1}, {2, 3}, {64, 65}, {200, 201}}}, kGrid);
  EXPECT_EQ(tiles.must_do_keys, (Tiles{{0, 2}, {3, 4}}));
}

TEST(LiteScheduleTilesTest, MustSkipIsRoundedInward) {
  const ScheduledTiles tiles = resolve_tiles(
      {.must_skip_queries = {{1, 256}}, .must_skip_keys = {{0, 63}, {65, 127}, {192, 257}}}, kGrid);
  EXPECT_EQ(tiles.must_skip_queries, (Tiles{{1, 2}}));
  EXPECT_EQ(tiles.must_skip_keys, (Tiles{{3, 4}}));
}

TEST(LiteScheduleTilesTest, AdjacentMustSkipRangesCountAsOne) {
  const ScheduledTiles tiles =
      resolve_tiles({.must_skip_keys = {{0, 10}, {10, 64}, {64, 70}, {70, 128}}}, kGrid);
  EXPECT_EQ(tiles.must_skip_keys, (Tiles{{0, 2}}));
}

TEST(LiteScheduleTilesTest, TheLastPartialTileEndsWithTheTokens) {
  EXPECT_EQ(resolve_tiles({.must_skip_keys = {{960, 1000}}}, kGrid).must_skip_keys,
            (Tiles{{15, 16}}));
  EXPECT_EQ(resolve_tiles({.must_skip_keys = {{960, 999}}}, kGrid).must_skip_keys, Tiles{});
  EXPECT_EQ(resolve_tiles({.must_skip_queries = {{200, 300}}}, kGrid).must_skip_queries,
            (Tiles{{2, 3}}));
}

TEST(LiteScheduleTilesTest, RangesBeyondTheTokensAreRefused) {
  test::expect_error<InvalidArgument>({"must_do_keys[1] is [10, 1001)", "1000 tokens"}, [] {
    resolve_tiles({.must_do_keys = {{0, 5}, {10, 1001}}}, kGrid);
  });
  test::expect_error<InvalidArgument>({"must_skip_queries[0]", "300 tokens"}, [] {
    resolve_tiles({.must_skip_queries = {{0, 301}}}, kGrid);
  });
}

}  // namespace
}  // namespace saccade::lite

#include <saccade/error.h>
#include <saccade/tile_grid.h>

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace saccade {
namespace {

constexpr std::int64_t kMaxLength = std::numeric_limits<std::int32_t>::max();

TileGrid grid_of(std::int64_t batch, std::int64_t heads, std::int64_t q_len, std::int64_t k_len) {
  return {batch, heads, q_len, k_len, 128, 64};
}

std::string message_of(const TileGrid& grid) {
  try {
    validate(grid);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "no error";
}

TEST(TileGridTest, CountsPartialTiles) {
  const TileGrid grid = grid_of(2, 3, 129, 65 * 64 + 1);
  EXPECT_EQ(grid.q_tiles(), 2);
  EXPECT_EQ(grid.k_tiles(), 66);
  EXPECT_EQ(grid.rows(), 2 * 3 * 2);
  EXPECT_EQ(grid.tiles(), 12 * 66);
  EXPECT_EQ(grid.words_per_row(), 2);
  EXPECT_EQ(grid.words(), 24);
}

TEST(TileGridTest, CountsWholeTiles) {
  const TileGrid grid = grid_of(1, 1, 128, 64);
  EXPECT_EQ(grid.q_tiles(), 1);
  EXPECT_EQ(grid.k_tiles(), 1);
}

TEST(TileGridTest, ValidBitsEndWithTheTiles) {
  EXPECT_EQ(grid_of(1, 1, 1, 1).valid_bits(0), 1u);
  EXPECT_EQ(grid_of(1, 1, 1, 63 * 64).valid_bits(0), ~std::uint64_t{0} >> 1);
  EXPECT_EQ(grid_of(1, 1, 1, 64 * 64).valid_bits(0), ~std::uint64_t{0});
  EXPECT_EQ(grid_of(1, 1, 1, 66 * 64).valid_bits(0), ~std::uint64_t{0});
  EXPECT_EQ(grid_of(1, 1, 1, 66 * 64).valid_bits(1), 3u);
}

TEST(TileGridTest, AcceptsTheLimits) {
  EXPECT_NO_THROW(validate(grid_of(1, 1, 1, 1)));
  EXPECT_NO_THROW(validate(grid_of(1, 1, kMaxLength, kMaxLength)));
  for (const int block_q : {64, 128}) {
    for (const int block_k : {64, 128}) {
      EXPECT_NO_THROW(validate({1, 1, 1, 1, block_q, block_k}));
    }
  }
}

TEST(TileGridTest, RejectsEmptyExtents) {
  EXPECT_EQ(message_of(grid_of(1, 1, 0, 1)),
            "q_len is 0, but must be at least 1 and at most 2147483647");
  EXPECT_EQ(message_of(grid_of(1, 1, 1, -5)),
            "k_len is -5, but must be at least 1 and at most 2147483647");
  EXPECT_THROW(validate(grid_of(0, 1, 1, 1)), InvalidArgument);
  EXPECT_THROW(validate(grid_of(1, 0, 1, 1)), InvalidArgument);
  EXPECT_THROW(validate(TileGrid{}), InvalidArgument);
}

TEST(TileGridTest, RejectsOtherBlockSizes) {
  EXPECT_EQ(message_of({1, 1, 1, 1, 32, 64}),
            "block_q is 32, but must be 64 or 128; the nearest is 64");
  EXPECT_EQ(message_of({1, 1, 1, 1, 128, 256}),
            "block_k is 256, but must be 64 or 128; the nearest is 128");
  EXPECT_THROW(validate({1, 1, 1, 1, 0, 64}), InvalidArgument);
  EXPECT_THROW(validate({1, 1, 1, 1, 64, -64}), InvalidArgument);
}

// The counts of such grids would not fit their types.
TEST(TileGridTest, RejectsOverflow) {
  EXPECT_THROW(validate(grid_of(1, 1, kMaxLength + 1, 1)), InvalidArgument);
  EXPECT_THROW(validate(grid_of(1, 1, 1, std::numeric_limits<std::int64_t>::max())),
               InvalidArgument);
  EXPECT_THROW(validate(grid_of(std::int64_t{1} << 40, 1, kMaxLength, kMaxLength)),
               InvalidArgument);
  EXPECT_THROW(validate(grid_of(std::int64_t{1} << 31, std::int64_t{1} << 32, 1, 1)),
               InvalidArgument);
}

}  // namespace
}  // namespace saccade

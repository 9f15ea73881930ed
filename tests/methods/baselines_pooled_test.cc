#include "support/expect_error.h"
#include "support/problem.h"
#include "support/selection.h"

#include <saccade/baselines.h>

#include <gtest/gtest.h>

#include <limits>

namespace saccade::baselines {
namespace {

using test::expect_error;
using test::Layout;
using test::Problem;
using test::Random;

// 5 x 9 tiles of 128 x 64; query tile i points at the feature of key tile 2 i, less at 2 i + 1.
Problem pointing_problem(DType dtype = DType::f32, Layout layout = Layout::bhsd) {
  Random random(2);
  Problem problem({.batch = 2, .q_heads = 2, .k_heads = 1, .q_len = 600, .k_len = 530}, dtype,
                  random, layout);
  for (std::int64_t i = 0; i < problem.q.element_count(); ++i) {
    const std::int64_t d = i % 16, tile = i / 16 % 600 / 128;
    problem.q.set(i, d == 2 * tile ? 10 : d == 2 * tile + 1 ? 5 : 0);
  }
  for (std::int64_t i = 0; i < problem.k.element_count(); ++i) {
    problem.k.set(i, i % 16 == i / 16 % 530 / 64 ? 1 : 0);
  }
  return problem;
}

TileMask pooled(const Problem& problem, const PooledOptions& options, Backend backend) {
  return pooled_tiles({.backend = backend},
                      {.q = problem.q.view(),
                       .k = problem.k.view(),
                       .q_lens = problem.q_lens.view(),
                       .k_lens = problem.k_lens.view()},
                      options);
}

class PooledTilesTest : public testing::TestWithParam<Backend> {};

INSTANTIATE_TEST_SUITE_P(Backends,
                         PooledTilesTest,
                         testing::Values(Backend::reference, Backend::cpu));

TEST_P(PooledTilesTest, KeepsTheHighestRanks) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Problem problem = pointing_problem(dtype, Layout::padded);
    const TileMask mask = pooled(problem, {.share = TileShare::of_count(2)}, GetParam());
    ASSERT_EQ(mask.grid(), problem.shape.grid());
    for (std::int64_t row = 0; row < mask.grid().rows(); ++row) {
      const std::int64_t tile = row % 5;
      const std::vector<TileRange> expected =
          tile < 4 ? std::vector<TileRange>{{2 * tile, 2 * tile + 2}}
                   : std::vector<TileRange>{{0, 1}, {8, 9}};  // one feature; equal ones by index
      EXPECT_EQ(mask.ranges(row), expected) << row;
    }
  }
}

TEST_P(PooledTilesTest, RowsHoldTheirShareExactly) {
  Random random(11);
  const Problem problem({.batch = 2, .q_heads = 4, .k_heads = 2, .q_len = 700, .k_len = 1100},
                        DType::f32, random);
  for (const double share : {0.0, 0.25, 0.5, 1.0}) {
    const auto expected = std::max<std::int64_t>(1, static_cast<std::int64_t>(share * 18));
    const TileMask mask = pooled(problem, {.share = TileShare::of_ratio(share)}, GetParam());
    EXPECT_EQ(mask.count(), mask.grid().rows() * expected) << share;
  }
}

TEST_P(PooledTilesTest, TopPAddsTilesUntilTheirMassSuffices) {
  const Problem problem = pointing_problem();
  PooledOptions options = {.scale = 1, .share = TileShare::of_count(1), .mass = 0.9};
  EXPECT_EQ(pooled(problem, options, GetParam()).count(), 2 * 2 * 5);  // e^10 / (e^10 + e^5 + 7)
  options.mass = 1;
  EXPECT_EQ(pooled(problem, options, GetParam()), TileMask::full(problem.shape.grid()));
}

TEST_P(PooledTilesTest, ProtectedTilesCountAndStay) {
  const Problem problem = pointing_problem();
  const TokenRange queries[] = {{0, 1}};
  const TokenRange keys[] = {{300, 301}};
  const PooledOptions options = {.share = TileShare::of_count(2),
                                 .protected_tokens = {queries, keys}};
  const TileMask mask = pooled(problem, options, GetParam());
  EXPECT_EQ(mask.ranges(0), (std::vector<TileRange>{{0, 9}}));
  EXPECT_EQ(mask.ranges(1), (std::vector<TileRange>{{2, 3}, {4, 5}}));
}

TEST_P(PooledTilesTest, PaddingIsNeverReadNorComputed) {
  Problem problem = pointing_problem();
  problem.set_lengths({600, 100}, {200, 530});
  const TileMask mask = pooled(problem, {.share = TileShare::of_count(9)}, GetParam());
  EXPECT_EQ(mask.ranges(0), (std::vector<TileRange>{{0, 4}}));
  EXPECT_EQ(mask.ranges(10), (std::vector<TileRange>{{0, 9}}));
  EXPECT_TRUE(mask.ranges(11).empty());
}

TEST_P(PooledTilesTest, ErrorsNameTheLimit) {
  const Problem problem = pointing_problem();
  const auto refuses = [&](const test::MessageParts& parts, const PooledOptions& options) {
    expect_error<InvalidArgument>(parts, [&] { pooled(problem, options, GetParam()); });
  };
  const TokenRange beyond[] = {{0, 531}};
  refuses({"block_q is 96"}, {.block_q = 96});
  refuses({"block_k is 0"}, {.block_k = 0});
  refuses({"mass is 2", "[0, 1]"}, {.mass = 2});
  refuses({"[0, 531)", "530"}, {.protected_tokens = {.keys = beyond}});
  refuses({"scale is nan"}, {.scale = std::numeric_limits<double>::quiet_NaN()});
  expect_error<InvalidArgument>({"q is missing"}, [] { pooled_tiles({}, {}, {}); });
}

}  // namespace
}  // namespace saccade::baselines

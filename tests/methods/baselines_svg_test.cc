#include "methods/video_tokens.h"
#include "support/expect_error.h"
#include "support/problem.h"

#include <saccade/baselines.h>

#include <gtest/gtest.h>

#include <limits>

namespace saccade::baselines {
namespace {

using test::expect_error;
using test::Layout;
using test::Problem;
using test::Random;
using test::Tensor;

// Four frames of four tiles. The keys, which two query heads share, know their frame and their
// tile within it; some query heads look for the one and some for the other.
constexpr VideoLayout kVideo = {.frames = 4, .height = 16, .width = 16};
constexpr bool kLooksForPlaces[2][4] = {{false, true, true, false}, {true, false, false, false}};

Problem video_problem(DType dtype, Layout layout) {
  Random random(3);
  Problem problem({.batch = 2,
                   .q_heads = 4,
                   .k_heads = 2,
                   .q_len = kVideo.tokens(),
                   .k_len = kVideo.tokens(),
                   .block_q = 64,
                   .block_k = 64},
                  dtype, random, layout);
  const std::vector<test::VideoToken> tokens = test::tokens_of(kVideo);
  const auto fill = [&](Tensor& x, std::int64_t heads, auto&& value) {
    for (std::int64_t batch = 0; batch < 2; ++batch) {
      for (std::int64_t head = 0; head < heads; ++head) {
        for (std::int64_t token = 0; token < kVideo.tokens(); ++token) {
          for (std::int64_t d = 0; d < 16; ++d) {
            const bool is_set = d == (d < 8 ? tokens[token].frame : 8 + tokens[token].place / 64);
            x.set(x.index(batch, head, token, d), is_set ? value(batch, head, d) : 0);
          }
        }
      }
    }
  };
  fill(problem.k, 2, [](auto, auto, auto) { return 8; });
  fill(problem.q, 4, [](auto batch, auto head, auto d) {
    return kLooksForPlaces[batch][head] == (d >= 8) ? 1 : 0;
  });
  problem.scale = 1;
  return problem;
}

// Seven tiles hold the frame of any query, and its place in all frames.
struct Candidates {
  explicit Candidates(const TileGrid& grid)
      : spatial(spatial_tiles(grid, kVideo, kOptions)),
        temporal(temporal_tiles(grid, kVideo, kOptions)) {}

  static inline const NearestOptions kOptions = {.share = TileShare::of_count(7), .sink_frames = 0};
  TileMask spatial, temporal;
};

TileMask expected_mask(const TileGrid& grid, const Candidates& candidates) {
  TileMask mask(grid);
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    const std::int64_t head = row / grid.q_tiles();
    const bool is_temporal = kLooksForPlaces[head / 4][head % 4];
    mask.set_ranges(row, (is_temporal ? candidates.temporal : candidates.spatial).ranges(row));
  }
  return mask;
}

TEST(SvgTilesTest, EveryHeadTakesTheMaskThatSuitsIt) {
  for (const Backend backend : {Backend::reference, Backend::cpu}) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
      for (const Layout layout : {Layout::bhsd, Layout::bshd, Layout::padded}) {
        const Problem problem = video_problem(dtype, layout);
        const TileGrid grid = problem.shape.grid();
        const Candidates candidates(grid);
        const TileMask mask = svg_tiles({.backend = backend},
                                        {.q = problem.q.view(),
                                         .k = problem.k.view(),
                                         .v = problem.v.view(),
                                         .spatial = candidates.spatial.view(),
                                         .temporal = candidates.temporal.view()},
                                        {.scale = 1, .sampled_tiles = 3, .rows_per_tile = 2});
        EXPECT_EQ(mask, expected_mask(grid, candidates)) << name_of(dtype) << name_of(layout);
      }
    }
  }
}

// A sample of all there is, and of more rows of tiles than there are, decides alike.
TEST(SvgTilesTest, AnySampleAndAnyWorkspaceWillDo) {
  const Problem problem = video_problem(DType::f32, Layout::bhsd);
  const TileGrid grid = problem.shape.grid();
  const Candidates candidates(grid);
  std::byte too_small[64] = {};
  for (const SvgOptions& options :
       {SvgOptions{.sampled_tiles = 1, .rows_per_tile = 1}, SvgOptions{.rows_per_tile = 64},
        SvgOptions{.sampled_tiles = std::numeric_limits<std::int64_t>::max(), .seed = ~0ull}}) {
    SvgOptions scaled = options;
    scaled.scale = 1;
    const TileMask mask = svg_tiles({.workspace = too_small},
                                    {.q = problem.q.view(),
                                     .k = problem.k.view(),
                                     .v = problem.v.view(),
                                     .spatial = candidates.spatial.view(),
                                     .temporal = candidates.temporal.view()},
                                    scaled);
    EXPECT_EQ(mask, expected_mask(grid, candidates));
  }
}

// Both candidates full: no errors at all. NaN in V: no error that compares.
TEST(SvgTilesTest, EqualAndUnknownErrorsMeanSpatial) {
  Problem problem = video_problem(DType::f32, Layout::bhsd);
  const TileGrid grid = problem.shape.grid();
  const Candidates candidates(grid);
  SvgInputs inputs = {.q = problem.q.view(),
                      .k = problem.k.view(),
                      .v = problem.v.view(),
                      .spatial = candidates.spatial.view(),
                      .temporal = candidates.spatial.view()};
  EXPECT_EQ(svg_tiles({}, inputs, {}), candidates.spatial);
  inputs.temporal = candidates.temporal.view();
  problem.v.generate([] { return std::numeric_limits<double>::quiet_NaN(); });
  EXPECT_EQ(svg_tiles({}, inputs, {}), candidates.spatial);
}

TEST(SvgTilesTest, PartialLastTilesAndOddLengths) {
  const VideoLayout video = {.frames = 3, .height = 7, .width = 11, .prefix = 2};
  Random random(5);
  const Problem problem({.batch = 1, .q_heads = 2, .k_heads = 1, .q_len = 233, .k_len = 233},
                        DType::f32, random);
  const TileGrid grid = problem.shape.grid();
  const NearestOptions options = {.share = TileShare::of_count(2), .sink_frames = 0};
  const TileMask spatial = spatial_tiles(grid, video, options);
  const TileMask temporal = temporal_tiles(grid, video, options);
  const TileMask mask = svg_tiles({},
                                  {.q = problem.q.view(),
                                   .k = problem.k.view(),
                                   .v = problem.v.view(),
                                   .spatial = spatial.view(),
                                   .temporal = temporal.view()},
                                  {.rows_per_tile = 128});
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    EXPECT_TRUE(mask.ranges(row) == spatial.ranges(row) ||
                mask.ranges(row) == temporal.ranges(row));
  }
}

TEST(SvgTilesTest, ErrorsNameTheLimit) {
  const Problem problem = video_problem(DType::f32, Layout::bhsd);
  const Candidates candidates(problem.shape.grid());
  TileGrid other_grid = problem.shape.grid();
  other_grid.block_q = 128;
  const TileMask other(other_grid);
  const SvgInputs legal = {.q = problem.q.view(),
                           .k = problem.k.view(),
                           .v = problem.v.view(),
                           .spatial = candidates.spatial.view(),
                           .temporal = candidates.temporal.view()};
  const auto refuses = [&](const test::MessageParts& parts, auto&& spoil, SvgOptions options) {
    SvgInputs inputs = legal;
    spoil(inputs);
    expect_error<InvalidArgument>(parts, [&] { svg_tiles({}, inputs, options); });
  };
  const auto nothing = [](SvgInputs&) {};
  refuses({"sampled_tiles is 0", "at least 1"}, nothing, {.sampled_tiles = 0});
  refuses({"rows_per_tile is 0", "at most 64"}, nothing, {.rows_per_tile = 0});
  refuses({"rows_per_tile is 65", "at most 64"}, nothing, {.rows_per_tile = 65});
  refuses({"scale is inf"}, nothing, {.scale = std::numeric_limits<double>::infinity()});
  refuses({"spatial is missing"}, [](SvgInputs& inputs) { inputs.spatial = {}; }, {});
  refuses({"temporal is missing"}, [](SvgInputs& inputs) { inputs.temporal = {}; }, {});
  refuses({"temporal belongs to another grid"},
          [&](SvgInputs& inputs) { inputs.temporal = other.view(); }, {});
  refuses({"q is missing"}, [](SvgInputs& inputs) { inputs.q = {}; }, {});
  refuses({"another grid"}, [&](SvgInputs& inputs) { inputs.q.shape[2] -= 1; }, {});
}

}  // namespace
}  // namespace saccade::baselines

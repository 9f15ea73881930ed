#include "core/reference/reference.h"
#include "core/validate.h"
#include "support/attention.h"
#include "support/comparison.h"
#include "support/token_logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Scores are stored in f32: half a unit in the last place of values up to 32.
constexpr double kRounding = 2e-6;

ForwardResult replay(const Problem& problem, int group_tiles) {
  ForwardProblem checked = validate(problem.inputs(), problem.forward_options());
  checked.plan = {.order = problem.order, .group_tiles = group_tiles};
  ForwardResult result(problem);
  attach_outputs(checked, result.outputs());
  reference::attention_forward(checked);
  return result;
}

// Two samples, of which the second is shorter; grouped heads; 4 x 5 tiles.
Problem scored_problem(Random& random) {
  const ProblemShape shape{.batch = 2,
                           .q_heads = 2,
                           .k_heads = 1,
                           .q_len = 200,
                           .k_len = 300,
                           .head_dim = 3,
                           .block_q = 64,
                           .block_k = 64};
  Problem problem(shape, DType::f64, random);
  problem.scale = 0.5;
  spread_scores(problem, random);
  problem.wants_scores = true;
  problem.threshold = -3.0;
  problem.set_lengths({200, 100}, {300, 150});
  return problem;
}

// The row maxima of S over one tile, one row of tiles at a time; tiles without a valid key or query
// have no entries.
std::vector<double> tile_maxima(const Problem& problem,
                                const Matrix& logits,
                                std::int64_t sample,
                                std::int64_t q_tile,
                                std::int64_t k_tile) {
  const ProblemShape& shape = problem.shape;
  const std::int64_t first_query = q_tile * shape.block_q;
  const std::int64_t first_key = k_tile * shape.block_k;
  const std::int64_t end_query =
      std::min(first_query + shape.block_q, problem.valid_queries(sample));
  const std::int64_t end_key = std::min(first_key + shape.block_k, problem.valid_keys(sample));
  std::vector<double> maxima;
  for (std::int64_t i = first_query; i < end_query && first_key < end_key; ++i) {
    maxima.push_back(*std::max_element(logits[i] + first_key, logits[i] + end_key));
  }
  return maxima;
}

// Calls f(sample, head, q_tile, row_index, logits) for every row of tiles.
template <typename F>
void for_each_row(const Problem& problem, F&& f) {
  const TileGrid grid = problem.shape.grid();
  std::int64_t row = 0;
  for (std::int64_t sample = 0; sample < grid.batch; ++sample) {
    for (std::int64_t head = 0; head < grid.heads; ++head) {
      const Matrix logits = token_logits(problem, sample, head);
      for (std::int64_t q_tile = 0; q_tile < grid.q_tiles(); ++q_tile) {
        f(sample, head, q_tile, row++, logits);
      }
    }
  }
}

// LiteAttention eq. 7: the largest rise of a tile's row maxima above the running ones, which
// include the tile's group.
Tensor running_scores(const Problem& problem, int group_tiles) {
  const TileGrid grid = problem.shape.grid();
  Tensor scores(DType::f64, {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
  scores.generate([] { return -kInfinity; });
  const TileMask mask = problem.tiles ? *problem.tiles : TileMask::full(grid);
  const auto* priorities = static_cast<const float*>(problem.priorities.view().data);
  const TileIndex index = TileIndex::rows(mask.view(), problem.order, priorities);
  for_each_row(problem, [&](auto sample, auto, auto q_tile, auto row, const Matrix& logits) {
    std::vector<std::vector<double>> maxima;
    std::vector<std::int32_t> tiles;
    for (const std::int32_t tile : index.list(row)) {
      maxima.push_back(tile_maxima(problem, logits, sample, q_tile, tile));
      tiles.push_back(tile);
      if (maxima.back().empty()) maxima.pop_back(), tiles.pop_back();
    }
    for (std::size_t entry = 0; entry < tiles.size(); ++entry) {
      const std::size_t group_end = std::min(tiles.size(), (entry / group_tiles + 1) * group_tiles);
      double score = -kInfinity;
      for (std::size_t r = 0; r < maxima[entry].size(); ++r) {
        double running = -kInfinity;
        for (std::size_t i = 0; i < group_end; ++i) running = std::max(running, maxima[i][r]);
        score = std::max(score, maxima[entry][r] - running);
      }
      scores.set(row * grid.k_tiles() + tiles[entry], score * std::numbers::log2e);
    }
  });
  return scores;
}

TEST(ReferenceScoresTest, RunningReferenceReplaysOrderAndGroups) {
  Random random(1);
  for (const double active_share : {1.0, 0.6}) {
    for (const VisitOrder order :
         {VisitOrder::linear, VisitOrder::reversed, VisitOrder::radial, VisitOrder::strongest}) {
      for (const int group_tiles : {1, 2, 3}) {
        SCOPED_TRACE(testing::Message() << name_of(order) << ", groups of " << group_tiles);
        Problem problem = scored_problem(random);
        problem.tiles = random_mask(problem.shape.grid(), active_share, random);
        problem.order = order;
        if (order == VisitOrder::strongest) visit_strongest_first(problem, random);
        const ForwardResult got = replay(problem, group_tiles);
        EXPECT_TRUE(is_within(got.scores, running_scores(problem, group_tiles), kRounding));
      }
    }
  }
}

TEST(ReferenceScoresTest, TheFirstVisitedGroupScoresZero) {
  Random random(2);
  Problem problem = scored_problem(random);
  problem.order = VisitOrder::radial;
  const TileGrid grid = problem.shape.grid();
  const ForwardResult got = replay(problem, 1);
  for (std::int64_t q_tile = 0; q_tile < grid.q_tiles(); ++q_tile) {
    const std::int64_t first = diagonal_tile(grid, q_tile);
    EXPECT_EQ(got.scores.get(q_tile * grid.k_tiles() + first), 0) << "row " << q_tile;
    EXPECT_FALSE(got.marks->test(0, 0, q_tile, first));
  }
}

// Random scores on both sides of the threshold, so that every bit is decided by its own score.
TEST(ReferenceScoresTest, MarksAreTheComputedTilesThatReachTheThreshold) {
  Random random(3);
  Problem problem = scored_problem(random);
  problem.tiles = random_mask(problem.shape.grid(), 0.8, random);
  for (const bool has_ref : {false, true}) {
    if (has_ref) problem.ref = random_ref(problem, random);
    std::int64_t marked = 0;
    for (const double threshold : {-0.5, -3.0, -8.0, -kInfinity}) {
      problem.threshold = threshold;
      const ForwardResult got = replay(problem, 1);
      const TileGrid grid = problem.shape.grid();
      std::vector<std::uint8_t> want(grid.tiles());
      for (std::int64_t i = 0; i < grid.tiles(); ++i) {
        const double score = got.scores.get(i);
        want[i] = score > -kInfinity && score <= threshold;
      }
      EXPECT_EQ(*got.marks, TileMask::from_dense(grid, want)) << threshold;
      marked += got.marks->count();
    }
    EXPECT_GT(marked, 0);
  }
}

TEST(ReferenceScoresTest, TilesThatAreNotComputedScoreMinusInfinity) {
  Random random(4);
  Problem problem = scored_problem(random);
  problem.tiles = random_mask(problem.shape.grid(), 0.5, random);
  const TileGrid grid = problem.shape.grid();
  const ForwardResult got = replay(problem, 2);
  for (std::int64_t i = 0; i < grid.tiles(); ++i) {
    EXPECT_EQ(got.scores.get(i) > -kInfinity, problem.computes(i)) << "tile " << i;
  }
}

// 2^score >= the largest weight of the tile in this step, whatever the earlier step left: also for
// rows whose lse fell since, rose, or were empty.
TEST(ReferenceScoresTest, LseReferenceBoundsTheWeightsOfThisStep) {
  Random random(5);
  for (int repeat = 0; repeat < 5; ++repeat) {
    Problem problem = scored_problem(random);
    problem.tiles = random_mask(problem.shape.grid(), 0.7, random);
    problem.threshold = {};
    problem.wants_scores = false;
    const Tensor lse = replay(problem, 1).lse;
    problem.wants_scores = true;
    problem.ref = lse;
    for (std::int64_t i = 0; i < lse.element_count(); ++i) {
      problem.ref.set(i, lse.get(i) + (repeat - 2) + 3 * random.normal());
    }
    if (repeat == 4) problem.ref.set(7, -kInfinity);
    const ForwardResult got = replay(problem, 1);
    const TileGrid grid = problem.shape.grid();
    for_each_row(problem, [&](auto sample, auto head, auto q_tile, auto row, const Matrix& logits) {
      for (std::int64_t k_tile = 0; k_tile < grid.k_tiles(); ++k_tile) {
        const std::vector<double> maxima = tile_maxima(problem, logits, sample, q_tile, k_tile);
        const double score = got.scores.get(row * grid.k_tiles() + k_tile);
        for (std::size_t r = 0; r < maxima.size(); ++r) {
          const std::int64_t query = q_tile * grid.block_q + static_cast<std::int64_t>(r);
          const double weight = std::exp(maxima[r] - lse.get(lse.index(sample, head, query)));
          if (maxima[r] == -kInfinity) continue;  // the tile is not active
          EXPECT_LE(weight, std::exp2(score) * (1 + kRounding));
        }
      }
    });
  }
}

// With the row's own lse as reference nothing fell, and the bound is met by the largest weight.
TEST(ReferenceScoresTest, LseReferenceIsTightWhereNothingChanged) {
  Random random(6);
  Problem problem = scored_problem(random);
  problem.ref = Tensor(DType::f64, {2, 2, 200}).generate([] { return 0.0; });
  problem.ref = replay(problem, 1).lse;
  const ForwardResult got = replay(problem, 1);
  const TileGrid grid = problem.shape.grid();
  for_each_row(problem, [&](auto sample, auto head, auto q_tile, auto row, const Matrix& logits) {
    for (std::int64_t k_tile = 0; k_tile < grid.k_tiles(); ++k_tile) {
      const std::vector<double> maxima = tile_maxima(problem, logits, sample, q_tile, k_tile);
      double largest = 0;
      for (std::size_t r = 0; r < maxima.size(); ++r) {
        const std::int64_t query = q_tile * grid.block_q + static_cast<std::int64_t>(r);
        const double lse = got.lse.get(got.lse.index(sample, head, query));
        largest = std::max(largest, std::exp(maxima[r] - lse));
      }
      const double score = got.scores.get(row * grid.k_tiles() + k_tile);
      EXPECT_NEAR(std::exp2(score), largest, kRounding);
    }
  });
}

// The share of every row, summed token by token.
TEST(ReferenceScoresTest, MassesAreSharesOfTheSoftmax) {
  Random random(9);
  for (const Measure measure : {Measure::largest_mass, Measure::mean_mass}) {
    SCOPED_TRACE(name_of(measure));
    Problem problem = scored_problem(random);
    problem.measure = measure;
    problem.tiles = random_mask(problem.shape.grid(), 0.7, random);
    problem.order = VisitOrder::reversed;
    const ForwardResult got = replay(problem, 2);
    const TileGrid grid = problem.shape.grid();
    for_each_row(problem, [&](auto sample, auto, auto q_tile, auto row, const Matrix& logits) {
      const std::int64_t first = q_tile * grid.block_q;
      const std::int64_t end =
          std::min<std::int64_t>(first + grid.block_q, problem.valid_queries(sample));
      double total = 0;
      for (std::int64_t k_tile = 0; k_tile < grid.k_tiles(); ++k_tile) {
        double largest = 0, mean = 0;
        for (std::int64_t i = first; i < end; ++i) {
          double in_tile = 0, in_row = 0;
          for (std::int64_t j = 0; j < problem.valid_keys(sample); ++j) {
            in_row += std::exp(logits[i][j]);
            if (j / grid.block_k == k_tile) in_tile += std::exp(logits[i][j]);
          }
          if (in_row == 0) continue;
          largest = std::max(largest, in_tile / in_row);
          mean += in_tile / in_row / static_cast<double>(end - first);
        }
        const double score = got.scores.get(row * grid.k_tiles() + k_tile);
        EXPECT_NEAR(std::exp2(score), measure == Measure::mean_mass ? mean : largest, kRounding);
        total += std::exp2(score);
      }
      if (total == 0 || measure != Measure::mean_mass) return;
      EXPECT_NEAR(total, 1, 5 * kRounding);
    });
  }
}

// A row that has met NaN poisons all of its tiles; one without any mass takes no part.
TEST(ReferenceScoresTest, MassesOfNaNAndOfNothing) {
  Random random(10);
  const ProblemShape shape{.q_len = 50, .k_len = 300, .head_dim = 2, .block_q = 64, .block_k = 64};
  for (const Measure measure : {Measure::largest_mass, Measure::mean_mass}) {
    Problem problem(shape, DType::f64, random);
    problem.measure = measure;
    problem.wants_scores = true;
    problem.threshold = 0.0;
    problem.q.generate([] { return 0.0; });
    ForwardResult got = replay(problem, 1);
    EXPECT_NEAR(got.scores.get(0), std::log2(64.0 / 300), kRounding);
    for (int d = 0; d < 2; ++d) problem.q.set(problem.q.index(0, 0, 7, d), 1);
    problem.k.generate([] { return -kInfinity; });
    problem.q.generate([] { return 1.0; });
    got = replay(problem, 1);
    EXPECT_EQ(got.scores.get(0), -kInfinity);
    EXPECT_TRUE(got.marks->test(0, 0, 0, 0));
    problem.k.set(problem.k.index(0, 0, 130, 0), kNaN);
    got = replay(problem, 1);
    for (std::int64_t tile = 0; tile < 5; ++tile) {
      EXPECT_TRUE(std::isnan(got.scores.get(tile))) << tile;
      EXPECT_FALSE(got.marks->test(0, 0, 0, tile));
    }
  }
}

// A NaN key poisons the running maximum of every row, so every tile from it on.
TEST(ReferenceScoresTest, NaNKeepsTheTile) {
  Random random(7);
  const ProblemShape shape{.q_len = 50, .k_len = 300, .head_dim = 2, .block_q = 64, .block_k = 64};
  Problem problem(shape, DType::f64, random);
  problem.wants_scores = true;
  problem.threshold = -1e-9;
  problem.k.set(problem.k.index(0, 0, 2 * 64 + 5, 1), kNaN);
  for (const bool has_ref : {false, true}) {
    SCOPED_TRACE(has_ref ? "lse reference" : "running reference");
    if (has_ref) problem.ref = random_ref(problem, random);
    const ForwardResult got = replay(problem, 1);
    for (std::int64_t tile = 0; tile < 5; ++tile) {
      const bool is_nan = has_ref || tile >= 2;
      EXPECT_EQ(std::isnan(got.scores.get(tile)), is_nan) << "tile " << tile;
      if (is_nan) {
        EXPECT_FALSE(got.marks->test(0, 0, 0, tile));
      }
    }
  }
}

// Logits of -inf fall below every reference except NaN.
TEST(ReferenceScoresTest, NaNKeepsATileOfMinusInfinity) {
  Random random(8);
  const ProblemShape shape{.q_len = 3, .k_len = 192, .head_dim = 1, .block_q = 64, .block_k = 64};
  Problem problem(shape, DType::f64, random);
  problem.q.generate([] { return 1.0; });
  for (std::int64_t key = 128; key < 192; ++key) problem.k.set(key, -kInfinity);
  problem.wants_scores = true;
  problem.threshold = -1.0;
  const ForwardResult without_nan = replay(problem, 1);
  EXPECT_EQ(without_nan.scores.get(2), -kInfinity);
  EXPECT_TRUE(without_nan.marks->test(0, 0, 0, 2));

  problem.k.set(70, kNaN);
  const ForwardResult with_nan = replay(problem, 1);
  EXPECT_TRUE(std::isnan(with_nan.scores.get(2)));
  EXPECT_FALSE(with_nan.marks->test(0, 0, 0, 2));
}

}  // namespace
}  // namespace saccade::test

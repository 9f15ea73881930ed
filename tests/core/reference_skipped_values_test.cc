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
#include <utility>
#include <vector>

// What skips_values leaves out, and what that costs at most.

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
const Context kReference{.backend = Backend::reference};

// Rounding of sums in double.
constexpr double kRounding = 1e-12;

ForwardResult replay(const Problem& problem, int group_tiles) {
  const AttentionForwardOptions options = problem.forward_options();
  ForwardProblem checked = validate(problem.inputs(), options);
  checked.plan = {
      .order = problem.order, .group_tiles = group_tiles, .panel_rows = options.panel_rows};
  ForwardResult result(problem);
  attach_outputs(checked, result.outputs());
  reference::attention_forward(checked);
  return result;
}

// Two samples, of which the second is shorter; grouped heads; 4 x 5 tiles.
Problem skipping_problem(Random& random) {
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
  problem.threshold = -1.0;
  problem.skips_values = true;
  problem.panel_rows = 16;
  problem.set_lengths({200, 100}, {300, 150});
  return problem;
}

// The keys that count in each row of one head, token by token from LiteAttention eq. 7.
std::vector<std::vector<bool>> counted_keys(const Problem& problem,
                                            const Matrix& logits,
                                            std::int64_t sample,
                                            std::int64_t head,
                                            int group_tiles) {
  const TileGrid grid = problem.shape.grid();
  const TileMask mask = problem.tiles ? *problem.tiles : TileMask::full(grid);
  const auto* priorities = static_cast<const float*>(problem.priorities.view().data);
  const TileIndex index = TileIndex::rows(mask.view(), problem.order, priorities);
  std::vector<std::vector<bool>> counted(grid.q_len, std::vector<bool>(grid.k_len));
  for (std::int64_t first = 0; first < problem.valid_queries(sample);) {
    const std::int64_t q_tile = first / grid.block_q;
    const std::int64_t end = std::min(
        {first + problem.panel_rows, (q_tile + 1) * grid.block_q, problem.valid_queries(sample)});
    std::vector<std::int64_t> tiles;
    for (const std::int32_t tile :
         index.list((sample * grid.heads + head) * grid.q_tiles() + q_tile)) {
      if (tile * grid.block_k < problem.valid_keys(sample)) tiles.push_back(tile);
    }
    std::vector<double> running(end - first, -kInfinity);
    for (std::size_t group = 0; group < tiles.size(); group += group_tiles) {
      std::vector<std::int64_t> keys;
      for (std::size_t i = group; i < std::min(tiles.size(), group + group_tiles); ++i) {
        for (std::int64_t key = tiles[i] * grid.block_k; key < (tiles[i] + 1) * grid.block_k;
             ++key) {
          if (key < problem.valid_keys(sample)) keys.push_back(key);
        }
      }
      double highest = -kInfinity;
      for (std::int64_t row = first; row < end; ++row) {
        double largest = -kInfinity;
        for (const std::int64_t key : keys) largest = std::max(largest, logits[row][key]);
        running[row - first] = std::max(running[row - first], largest);
        highest = std::max(highest, largest - running[row - first]);
      }
      if (highest * std::numbers::log2e <= *problem.threshold) continue;
      for (std::int64_t row = first; row < end; ++row) {
        for (const std::int64_t key : keys) counted[row][key] = true;
      }
    }
    first = end;
  }
  return counted;
}

// Compares out and lse of one head with sums over the keys that count, and the softmax mass of
// those that do not with its bound. Returns how many are left out.
std::int64_t expect_sums(const Problem& problem,
                         const ForwardResult& got,
                         std::int64_t sample,
                         std::int64_t head,
                         int group_tiles) {
  const Matrix logits = token_logits(problem, sample, head);
  const auto counted = counted_keys(problem, logits, sample, head, group_tiles);
  std::int64_t left_out = 0;
  for (std::int64_t row = 0; row < problem.valid_queries(sample); ++row) {
    double sum = 0, lost = 0, left_out_here = 0;
    std::vector<double> out(problem.shape.head_dim);
    for (std::int64_t key = 0; key < problem.valid_keys(sample); ++key) {
      if (logits[row][key] == -kInfinity) continue;
      const double weight = std::exp(logits[row][key]);
      (counted[row][key] ? sum : lost) += weight;
      left_out_here += counted[row][key] ? 0 : 1;
      for (std::int64_t d = 0; counted[row][key] && d < problem.shape.head_dim; ++d) {
        out[d] += weight * problem.v.get(problem.v.index(sample, 0, key, d));
      }
    }
    left_out += static_cast<std::int64_t>(left_out_here);
    if (sum == 0) continue;
    EXPECT_LE(lost / (sum + lost), left_out_here * std::exp2(*problem.threshold) + kRounding);
    EXPECT_NEAR(got.lse.get(got.lse.index(sample, head, row)), std::log(sum), kRounding);
    for (std::int64_t d = 0; d < problem.shape.head_dim; ++d) {
      EXPECT_NEAR(got.out.get(got.out.index(sample, head, row, d)), out[d] / sum, kRounding);
    }
  }
  return left_out;
}

TEST(ReferenceSkippedValuesTest, LeavesOutPanelsOfVisitGroups) {
  Random random(1);
  std::int64_t left_out = 0;
  for (const VisitOrder order : {VisitOrder::linear, VisitOrder::radial, VisitOrder::strongest}) {
    for (const int group_tiles : {1, 2}) {
      for (const int panel_rows : {1, 16, 48, 64}) {
        SCOPED_TRACE(testing::Message() << name_of(order) << ", groups of " << group_tiles
                                        << ", panels of " << panel_rows);
        Problem problem = skipping_problem(random);
        problem.tiles = random_mask(problem.shape.grid(), 0.9, random);
        problem.order = order;
        if (order == VisitOrder::strongest) visit_strongest_first(problem, random);
        problem.panel_rows = panel_rows;
        const ForwardResult got = replay(problem, group_tiles);
        for (std::int64_t sample = 0; sample < 2; ++sample) {
          for (std::int64_t head = 0; head < 2; ++head) {
            left_out += expect_sums(problem, got, sample, head, group_tiles);
          }
        }
      }
    }
  }
  EXPECT_GT(left_out, 100'000);
}

// What is known of a tile does not depend on what is done with it.
TEST(ReferenceSkippedValuesTest, MarksAndScoresStay) {
  Random random(2);
  Problem problem = skipping_problem(random);
  const ForwardResult got = run_forward(kReference, problem);
  problem.skips_values = false, problem.panel_rows = 0;
  const ForwardResult want = run_forward(kReference, problem);
  EXPECT_TRUE(is_same(got.scores, want.scores));
  EXPECT_EQ(*got.marks, *want.marks);
  EXPECT_FALSE(is_same(got.out, want.out));
}

// Smaller panels leave out more, and the same tile as a whole where it is marked.
TEST(ReferenceSkippedValuesTest, LseFallsWithSmallerPanels) {
  Random random(3);
  Problem problem = skipping_problem(random);
  std::vector<double> sums;
  for (const int panel_rows : {64, 16, 1}) {
    problem.panel_rows = panel_rows;
    const ForwardResult got = run_forward(kReference, problem);
    double sum = 0;
    for (const double lse : got.lse.values()) sum += std::isfinite(lse) ? lse : 0;
    sums.push_back(sum);
  }
  EXPECT_GT(sums[0], sums[1]);
  EXPECT_GT(sums[1], sums[2]);
}

TEST(ReferenceSkippedValuesTest, MinusInfinityLeavesNothingOut) {
  Random random(4);
  Problem problem = skipping_problem(random);
  problem.threshold = -kInfinity;
  const ForwardResult got = run_forward(kReference, problem);
  problem.skips_values = false, problem.panel_rows = 0;
  expect_same(got, run_forward(kReference, problem));
}

TEST(ReferenceSkippedValuesTest, NeedsNeitherMarksNorScores) {
  Random random(5);
  Problem problem = skipping_problem(random);
  const ForwardResult want = run_forward(kReference, problem);
  const ForwardResult got(problem);
  AttentionForwardOutputs outputs = got.outputs();
  outputs.marks = {}, outputs.scores = {};
  attention_forward(kReference, problem.inputs(), problem.forward_options(), outputs);
  EXPECT_TRUE(is_same(got.out, want.out));
  EXPECT_TRUE(is_same(got.lse, want.lse));
}

// 64 queries of ones, 16 to a panel, against keys of 0, -1000 and 0: the second tile is negligible.
Problem three_tiles(Random& random) {
  Problem problem({.q_len = 64, .k_len = 192, .head_dim = 1, .block_q = 64, .block_k = 64},
                  DType::f64, random);
  problem.q.generate([] { return 1.0; });
  for (std::int64_t key = 0; key < 192; ++key) problem.k.set(key, key / 64 == 1 ? -1000 : 0);
  problem.threshold = -1.0;
  problem.skips_values = true;
  problem.panel_rows = 16;
  return problem;
}

TEST(ReferenceSkippedValuesTest, NaNLeavesNothingOutAndIsNotReadWhereLeftOut) {
  Random random(6);
  Problem problem = three_tiles(random);
  problem.v.set(70, kNaN);
  for (const double out : run_forward(kReference, problem).out.values()) {
    EXPECT_TRUE(std::isfinite(out));
  }
  problem.q.set(20, kNaN);  // of panel 1, and of its logits
  const Tensor out = run_forward(kReference, problem).out;
  for (std::int64_t row = 0; row < 64; ++row) {
    EXPECT_EQ(std::isnan(out.get(row)), row / 16 == 1) << row;
  }
}

TEST(ReferenceSkippedValuesTest, RowsOfMinusInfinityStayEmpty) {
  Random random(7);
  Problem problem = three_tiles(random);
  problem.k.generate([] { return -kInfinity; });
  problem.v.generate([] { return kNaN; });
  const ForwardResult got = run_forward(kReference, problem);
  for (const double out : got.out.values()) EXPECT_EQ(out, 0);
  for (const double lse : got.lse.values()) EXPECT_EQ(lse, -kInfinity);
}

}  // namespace
}  // namespace saccade::test

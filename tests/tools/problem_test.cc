#include "check/problem.h"

#include "check/comparison.h"
#include "check/problem_data.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace saccade::cli {
namespace {

TEST(Problem, ARoundHasEveryDTypeWithEveryHeadDim) {
  std::set<std::pair<DType, int>> pairs;
  for (int number = 0; number < kProblemsPerRound; ++number) {
    const Problem problem = make_problem(5, number);
    pairs.emplace(problem.dtype, problem.head_dim);
  }
  EXPECT_EQ(pairs.size(), 48u);
}

TEST(Problem, IsAFunctionOfSeedAndNumber) {
  EXPECT_EQ(describe(make_problem(1, 9)), describe(make_problem(1, 9)));
  EXPECT_NE(describe(make_problem(1, 9)), describe(make_problem(2, 9)));
  const Problem problem = make_problem(1, 9);
  EXPECT_EQ(max_difference(make_data(problem).q, make_data(problem).q), 0);
}

// The caps on gradients hold up to |S| = 20, see make_data.
TEST(Problem, LogitsStayInTheRangeOfTheCaps) {
  for (int number = 0; number < kProblemsPerRound; ++number) {
    EXPECT_LE(make_data(make_problem(3, number)).max_logit, 20) << number;
  }
}

TEST(Problem, DataIsExactInItsDType) {
  for (int number = 0; number < 6; ++number) {
    const Problem problem = make_problem(4, number);
    for (const double value : make_data(problem).q) {
      if (std::isnan(value)) continue;
      ASSERT_EQ(round_to(problem.dtype, value), value);
    }
  }
}

TEST(Problem, WhatTheLengthsExcludeIsNaN) {
  int problems_with_lens = 0;
  for (int number = 0; number < kProblemsPerRound; ++number) {
    const Problem problem = make_problem(6, number);
    if (!problem.has_lens) continue;
    ++problems_with_lens;
    const ProblemData data = make_data(problem);
    const TileGrid& grid = problem.grid;
    for (std::int64_t batch = 0; batch < grid.batch; ++batch) {
      for (std::int64_t row = 0; row < grid.q_len; ++row) {
        const std::int64_t first_head = batch * grid.heads * grid.q_len;
        EXPECT_EQ(std::isnan(data.dlse[first_head + row]), row >= data.q_lens[batch]);
      }
    }
  }
  EXPECT_GT(problems_with_lens, 0);
}

}  // namespace
}  // namespace saccade::cli

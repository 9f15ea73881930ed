#include "check/comparison.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace saccade::cli {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

using Values = std::vector<double>;

TEST(RelativeL2, IsTheWorstOfTheSlices) {
  const Values want = {3, 4, 30, 40};
  EXPECT_EQ(relative_l2(want, want, 2), 0);
  // 0.5 / 5 in the first slice, 1 / 50 in the second.
  EXPECT_DOUBLE_EQ(relative_l2(Values{3.5, 4, 30, 41}, want, 2), 0.1);
}

TEST(RelativeL2, IsMeasuredAgainstTheLargerTerms) {
  const Values got = {1e-9, 0}, want = {0, 0};
  EXPECT_EQ(relative_l2(got, want, 2), kInfinity);
  EXPECT_DOUBLE_EQ(relative_l2(got, want, 2, Values{0, 1}), 1e-9);
  EXPECT_DOUBLE_EQ(relative_l2(Values{11}, Values{10}, 1, Values{2}), 0.1);
}

TEST(Comparisons, NonFiniteValuesMustAgree) {
  for (const double special : {kNaN, kInfinity, -kInfinity}) {
    EXPECT_EQ(relative_l2(Values{special, 1}, Values{special, 1}, 2), 0);
    EXPECT_EQ(relative_l2(Values{special, 1}, Values{0, 1}, 2), kInfinity);
    EXPECT_EQ(relative_l2(Values{0, 1}, Values{special, 1}, 2), kInfinity);
    EXPECT_EQ(max_difference(Values{special}, Values{special}), 0);
    EXPECT_EQ(max_difference(Values{special}, Values{0}), kInfinity);
    EXPECT_EQ(max_difference(Values{0}, Values{special}), kInfinity);
  }
  EXPECT_EQ(max_difference(Values{kInfinity}, Values{-kInfinity}), kInfinity);
  EXPECT_EQ(max_difference(Values{kNaN}, Values{-kInfinity}), kInfinity);
}

TEST(Comparisons, OtherElementsCountBesideNonFiniteOnes) {
  EXPECT_DOUBLE_EQ(relative_l2(Values{kNaN, 5.5}, Values{kNaN, 5}, 2), 0.1);
  EXPECT_DOUBLE_EQ(max_difference(Values{-kInfinity, 5.5}, Values{-kInfinity, 5}), 0.5);
}

TEST(CountWrongMarks, OnlyScoresNearTheThresholdExcuse) {
  const TileGrid grid{.batch = 1, .heads = 1, .q_len = 64, .k_len = 256, .block_q = 64};
  TileMask got(grid), want(grid);
  got.set(0, 0, 0, 1);   // within the tolerance
  got.set(0, 0, 0, 2);   // beyond it
  want.set(0, 0, 0, 3);  // never computed
  const Values scores = {-5, -1.95, -1.5, -kInfinity};
  EXPECT_EQ(count_wrong_marks(got, want, scores, -2, 0.1), 2);
  EXPECT_EQ(count_wrong_marks(want, want, scores, -2, 0.1), 0);
  EXPECT_EQ(count_wrong_marks(got, want, Values{-5, kNaN, -1.5, -3}, -2, 0.1), 3);
}

}  // namespace
}  // namespace saccade::cli

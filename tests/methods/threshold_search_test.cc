#include "methods/lite/threshold_search.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace saccade::lite {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// -count, ..., -2, -1: threshold -t drops count + 1 - t tiles.
std::vector<float> ladder(int count) {
  std::vector<float> scores;
  for (int i = 1; i <= count; ++i) scores.push_back(static_cast<float>(-i));
  return scores;
}

// Searches with this error of the share of tiles that are dropped; how often it was asked.
template <typename ErrorOf>
int search(ThresholdSearch& tried, int count, ErrorOf error_of) {
  int evaluations = 0;
  while (const auto threshold = tried.next()) {
    ++evaluations;
    tried.tell(error_of((count + 1 + *threshold) / count));
    if (evaluations == 50) break;
  }
  return evaluations;
}

TEST(ThresholdSearchTest, FindsTheCrossingOfAnExponentialInFewSteps) {
  for (const double first_share : {0.0, 0.02, 0.5, 1.0}) {
    for (const double crossing : {0.05, 0.3, 0.77}) {
      const auto error_of = [&](double share) { return 0.1 * std::exp(9 * (share - crossing)); };
      ThresholdSearch tried(ladder(10'000), 0.1, first_share);
      EXPECT_LE(search(tried, 10'000, error_of), 8) << first_share << " " << crossing;
      ASSERT_TRUE(tried.has_best());
      EXPECT_LE(tried.best_share(), crossing);
      EXPECT_GT(tried.best_share(), crossing - 1.0 / 64);
    }
  }
}

TEST(ThresholdSearchTest, EndsWhateverTheErrorsAre) {
  const double errors[] = {0, 1, std::numeric_limits<double>::quiet_NaN(), kInfinity, 0.0999};
  for (const double error : errors) {
    for (const double target : {0.0, 0.1, 5.0}) {
      ThresholdSearch tried(ladder(1000), target, 0.5);
      EXPECT_LE(search(tried, 1000, [&](double) { return error; }), 20) << error << " " << target;
      EXPECT_EQ(tried.has_best(), error <= target) << error << " " << target;
    }
  }
}

TEST(ThresholdSearchTest, TilesThatCannotGoAreNotCounted) {
  ThresholdSearch none({0, 0, kNaN, -kInfinity, kInfinity}, 0.1, 0.5);
  EXPECT_FALSE(none.next());
  EXPECT_FALSE(none.has_best());
  ThresholdSearch one({0, -3, kNaN, -kInfinity}, 0.1, 0.0);
  EXPECT_EQ(one.next(), -3.0);
  EXPECT_TRUE(one.tell(0.05));
  EXPECT_EQ(one.best_share(), 1.0);
  EXPECT_FALSE(one.next());
}

TEST(ThresholdSearchTest, EqualScoresGoTogether) {
  // 4 tiles at -2, 4 at -1: only 0, 4 or 8 can go.
  ThresholdSearch tried({-1, -2, -1, -2, -1, -2, -1, -2}, 0.1, 0.1);
  EXPECT_EQ(tried.next(), -2.0);
  EXPECT_TRUE(tried.tell(0.02));
  EXPECT_EQ(tried.next(), -1.0);
  EXPECT_FALSE(tried.tell(0.3));
  EXPECT_FALSE(tried.next());
  EXPECT_EQ(tried.best_share(), 0.5);
}

TEST(ThresholdSearchTest, TheLastOneThatKeepsTheTargetCounts) {
  ThresholdSearch tried(ladder(100), 0.1, 0.5);
  EXPECT_TRUE(tried.tell(0.01));
  const double best = tried.best_share();
  ASSERT_TRUE(tried.next());
  EXPECT_FALSE(tried.tell(0.2));
  EXPECT_EQ(tried.best_share(), best);
}

}  // namespace
}  // namespace saccade::lite

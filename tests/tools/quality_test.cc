#include "replay/quality.h"

#include "host_tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace saccade::cli {
namespace {

// Two rows of two elements, and the lse of each row.
struct Outputs {
  Outputs(const std::vector<double>& elements, const std::vector<double>& rows)
      : out(DType::f16, {1, 1, 2, 2}), lse(DType::f32, {1, 1, 2}) {
    out.fill(elements);
    lse.fill(rows);
  }

  MethodOutputs views() const { return {out.view(), lse.view()}; }

  HostTensor out, lse;
};

TileMask half_of_the_tiles() {
  TileMask mask({.batch = 1, .heads = 1, .q_len = 2, .k_len = 100, .block_q = 64, .block_k = 64});
  mask.set(0, 0, 0, 1);
  return mask;
}

TEST(QualityTest, MeasuresWhatItsNamesSay) {
  const Outputs sparse({1, -2, 0, 2}, {0, 1}), dense({2, -2, 1, 0}, {std::log(2), 1});
  const Quality quality = compare(sparse.views(), dense.views(), half_of_the_tiles().view());
  EXPECT_DOUBLE_EQ(quality.sparsity(), 0.5);
  EXPECT_DOUBLE_EQ(quality.relative_l1(), 4.0 / 5);
  EXPECT_DOUBLE_EQ(quality.rmse(), std::sqrt(6.0 / 4));
  EXPECT_DOUBLE_EQ(quality.cosine(), 6.0 / (3 * 3));
  EXPECT_NEAR(quality.kept_mass(), (0.5 + 1) / 2, 1e-6);
}

TEST(QualityTest, SumsAreThoseOfAllElements) {
  const Outputs exact({1, 1, 1, 1}, {0, 0}), wrong({1, 1, 1, 5}, {0, 0});
  Quality sum = compare(exact.views(), exact.views(), half_of_the_tiles().view());
  sum += compare(wrong.views(), exact.views(), half_of_the_tiles().view());
  EXPECT_EQ(sum.calls, 2);
  EXPECT_DOUBLE_EQ(sum.relative_l1(), 4.0 / 8);
  EXPECT_DOUBLE_EQ(sum.rmse(), std::sqrt(16.0 / 8));
  EXPECT_DOUBLE_EQ(sum.sparsity(), 0.5);
}

TEST(QualityTest, NanShows) {
  const Outputs exact({1, 1, 1, 1}, {0, 0}), nan({1, NAN, 1, 1}, {0, 0});
  const Quality quality = compare(nan.views(), exact.views(), half_of_the_tiles().view());
  EXPECT_TRUE(std::isnan(quality.relative_l1()));
  EXPECT_TRUE(std::isnan(quality.cosine()));
  EXPECT_TRUE(to_json(quality).dump().find("\"rmse\":null") != std::string::npos);
}

}  // namespace
}  // namespace saccade::cli

#include "check/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace saccade::cli {
namespace {

TEST(BackendReport, PassesWhileEveryErrorIsWithinItsCap) {
  BackendReport report("cpu");
  report.add(make_problem(1, 0), {{Quantity::forward_out, "out", 1e-5, 1e-5}});
  EXPECT_TRUE(report.passed());
}

TEST(BackendReport, KeepsTheWorstErrorAndCountsProblemsOnce) {
  BackendReport report("cpu");
  report.add(make_problem(1, 0), {{Quantity::backward_gradients, "dq", 1e-6, 2e-5},
                                  {Quantity::backward_gradients, "dk", 3e-6, 2e-5}});
  report.add(make_problem(1, 48), {{Quantity::backward_gradients, "dq", 2e-6, 2e-5}});
  const auto rows = report.to_json()["rows"];
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0]["problems"], 2);
  EXPECT_EQ(rows[0]["failed"], 0);
  EXPECT_EQ(rows[0]["worst_error"], 3e-6);
}

TEST(BackendReport, AFailureCarriesTheCommandThatRepeatsIt) {
  BackendReport report("cpu");
  const double infinity = std::numeric_limits<double>::infinity();
  report.add(make_problem(9, 13), {{Quantity::forward_lse, "lse", infinity, 1e-5}});
  EXPECT_FALSE(report.passed());
  const auto json = report.to_json();
  EXPECT_EQ(json["rows"][0]["failed"], 1);
  ASSERT_EQ(json["failures"].size(), 1u);
  EXPECT_EQ(json["failures"][0]["command"], "saccade check --backend cpu --seed 9 --case 13");
  EXPECT_EQ(json["failures"][0]["problem"], describe(make_problem(9, 13)));
}

TEST(BackendReport, AnErrorThatIsNotANumberFails) {
  BackendReport report("cpu");
  report.add(make_problem(1, 0), {{Quantity::forward_out, "out", std::nan(""), 1e-5}});
  EXPECT_FALSE(report.passed());
}

TEST(BackendReport, ARefusalFails) {
  BackendReport report("cpu");
  report.add_refusal(make_problem(1, 2), "no such thing");
  EXPECT_FALSE(report.passed());
  EXPECT_EQ(report.to_json()["failures"][0]["reasons"][0], "refused: no such thing");
}

}  // namespace
}  // namespace saccade::cli

#include "support/comparison.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <span>
#include <vector>

namespace saccade::test {
namespace {

// max|S| up to which the caps of docs/numerics.md hold.
constexpr double kModerateLogit = 20;

double growth(double max_logit) {
  return std::max(1.0, max_logit / kModerateLogit);
}

bool is_same_or_finite(double got, double want) {
  if (std::isnan(want)) return std::isnan(got);
  return got == want || (std::isfinite(got) && std::isfinite(want));
}

testing::AssertionResult mismatch(std::int64_t index, double got, double want) {
  return testing::AssertionFailure()
         << "element " << index << " is " << got << ", but should be " << want;
}

// |a - b|_2 over the elements that are finite in both; b empty = zero.
double distance(std::span<const double> a, std::span<const double> b = {}) {
  double squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = b.empty() ? a[i] : a[i] - b[i];
    if (std::isfinite(difference)) squares += difference * difference;
  }
  return std::sqrt(squares);
}

// The reference's gradients with delta = 0: P * dP in the place of dS.
Gradients gradients_before_cancellation(const Problem& problem, const ForwardResult& forward) {
  Problem without_dlse = problem;
  without_dlse.dlse = {};
  ForwardResult without_out = forward;
  without_out.out = forward.out.converted(DType::f64).generate([] { return 0.0; });
  return reference_backward(without_dlse, without_out);
}

}  // namespace

testing::AssertionResult is_close_beside(const Tensor& got,
                                         const Tensor& want,
                                         const Tensor& terms,
                                         double tolerance) {
  const std::vector<double> got_values = got.values();
  const std::vector<double> want_values = want.values();
  const std::vector<double> term_values = terms.values();
  for (std::size_t i = 0; i < want_values.size(); ++i) {
    if (!is_same_or_finite(got_values[i], want_values[i])) {
      return mismatch(i, got_values[i], want_values[i]);
    }
  }
  const std::size_t size = want.element_count() / (want.extent(0) * want.extent(1));
  for (std::size_t begin = 0; begin < want_values.size(); begin += size) {
    const auto slice = [&](const std::vector<double>& values) {
      return std::span(values).subspan(begin, size);
    };
    const double error = distance(slice(got_values), slice(want_values));
    const double norm =
        distance(slice(term_values)) + distance(slice(term_values), slice(want_values));
    if (!(error <= tolerance * norm)) {
      return testing::AssertionFailure() << "head " << begin / size << " has relative error "
                                         << error / norm << ", but the tolerance is " << tolerance;
    }
  }
  return testing::AssertionSuccess();
}

double forward_tolerance(DType dtype, double max_logit) {
  switch (dtype) {
    case DType::bf16:
      return 5e-3 * growth(max_logit);
    case DType::f16:
      return 1e-3 * growth(max_logit);
    default:
      return 1e-5 * growth(max_logit);
  }
}

double gradient_tolerance(DType dtype, double max_logit) {
  return 2 * forward_tolerance(dtype, max_logit);
}

double lse_tolerance(double max_logit) {
  return 1e-5 * (1 + max_logit);
}

// A difference of two natural-log quantities, in log2 units.
double score_tolerance(double max_logit) {
  return 2 * std::numbers::log2e * lse_tolerance(max_logit);
}

testing::AssertionResult is_close(const Tensor& got, const Tensor& want, double tolerance) {
  return is_close_beside(got, want, want, tolerance);
}

testing::AssertionResult is_within(const Tensor& got, const Tensor& want, double tolerance) {
  for (std::int64_t i = 0; i < want.element_count(); ++i) {
    const double difference = std::abs(got.get(i) - want.get(i));
    if (!is_same_or_finite(got.get(i), want.get(i)) || difference > tolerance) {
      return mismatch(i, got.get(i), want.get(i)) << " within " << tolerance;
    }
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult is_same(const Tensor& got, const Tensor& want) {
  if (got.bytes() == want.bytes()) return testing::AssertionSuccess();
  for (std::int64_t i = 0; i < want.element_count(); ++i) {
    if (got.get(i) != want.get(i)) return mismatch(i, got.get(i), want.get(i));
  }
  return testing::AssertionFailure() << "bits differ in a NaN, the sign of a zero or a gap";
}

namespace {

// Masses below 2^-100 may be anything below it.
Tensor known_scores(const Problem& problem, const ForwardResult& result) {
  Tensor scores = result.scores;
  if (problem.measure == Measure::largest_weight) return scores;
  for (std::int64_t tile = 0; tile < scores.element_count(); ++tile) {
    if (scores.get(tile) < -100) scores.set(tile, -100);
  }
  return scores;
}

}  // namespace

void expect_close(const Problem& problem, const ForwardResult& got, const ForwardResult& want) {
  const double max_logit = problem.max_logit();
  EXPECT_TRUE(is_close(got.out, want.out, forward_tolerance(problem.q.dtype(), max_logit)));
  EXPECT_TRUE(is_within(got.lse, want.lse, lse_tolerance(max_logit)));
  EXPECT_TRUE(got.out.gaps_are_untouched());
  EXPECT_TRUE(got.lse.gaps_are_untouched());
  const double tolerance = score_tolerance(max_logit);
  if (problem.wants_scores) {
    for (std::int64_t tile = 0; tile < got.scores.element_count(); ++tile) {
      if (problem.computes(tile)) continue;
      EXPECT_EQ(got.scores.get(tile), -INFINITY) << tile;
    }
    EXPECT_TRUE(is_within(known_scores(problem, got), known_scores(problem, want), tolerance));
  }
  if (!problem.threshold) return;

  // The reference is asked for scores even where the problem does not want them.
  Problem scored = problem;
  scored.wants_scores = true;
  const Tensor scores = problem.wants_scores ? want.scores : reference_forward(scored).scores;
  const TileGrid grid = problem.shape.grid();
  const std::vector<std::uint8_t> marked = got.marks->to_dense();
  EXPECT_EQ(TileMask::from_dense(grid, marked), *got.marks) << "padding bits";
  for (std::int64_t tile = 0; tile < grid.tiles(); ++tile) {
    const double score = problem.wants_scores ? got.scores.get(tile) : scores.get(tile);
    if (!problem.wants_scores && std::abs(score - *problem.threshold) <= tolerance) continue;
    const bool is_marked = *problem.threshold > -std::numeric_limits<double>::infinity() &&
                           problem.computes(tile) && score <= *problem.threshold;
    EXPECT_EQ(marked[tile] != 0, is_marked) << "tile " << tile << " of score " << score;
  }
}

void expect_same(const ForwardResult& got, const ForwardResult& want) {
  EXPECT_TRUE(is_same(got.out, want.out));
  EXPECT_TRUE(is_same(got.lse, want.lse));
  EXPECT_TRUE(is_same(got.scores, want.scores));
  EXPECT_EQ(got.marks, want.marks);
}

void expect_close_to_reference(const Problem& problem,
                               const ForwardResult& forward,
                               const Gradients& got) {
  const double tolerance = gradient_tolerance(problem.q.dtype(), problem.max_logit());
  const Gradients want = reference_backward(problem, forward);
  EXPECT_TRUE(is_close(got.dv, want.dv, tolerance));
  if (!is_close(got.dq, want.dq, tolerance) || !is_close(got.dk, want.dk, tolerance)) {
    const Gradients terms = gradients_before_cancellation(problem, forward);
    EXPECT_TRUE(is_close_beside(got.dq, want.dq, terms.dq, tolerance));
    EXPECT_TRUE(is_close_beside(got.dk, want.dk, terms.dk, tolerance));
  }
  EXPECT_TRUE(got.dq.gaps_are_untouched());
  EXPECT_TRUE(got.dk.gaps_are_untouched());
  EXPECT_TRUE(got.dv.gaps_are_untouched());
}

void expect_same(const Gradients& got, const Gradients& want) {
  EXPECT_TRUE(is_same(got.dq, want.dq));
  EXPECT_TRUE(is_same(got.dk, want.dk));
  EXPECT_TRUE(is_same(got.dv, want.dv));
}

}  // namespace saccade::test

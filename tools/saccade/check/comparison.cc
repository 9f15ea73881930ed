#include "check/comparison.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace saccade::cli {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// got - want; 0 where both are the same non-finite value, infinite where only one is.
double difference(double got, double want) {
  if (std::isfinite(got) && std::isfinite(want)) return got - want;
  const bool same = got == want || (std::isnan(got) && std::isnan(want));
  return same ? 0 : kInfinity;
}

double finite_norm(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += std::isfinite(value) ? value * value : 0;
  return std::sqrt(sum);
}

}  // namespace

double relative_l2(std::span<const double> got,
                   std::span<const double> want,
                   std::int64_t slice_size,
                   std::span<const double> terms) {
  double worst = 0;
  for (std::size_t begin = 0; begin < want.size(); begin += slice_size) {
    double squares = 0;
    for (std::size_t i = begin; i < begin + slice_size; ++i) {
      squares += std::pow(difference(got[i], want[i]), 2);
    }
    if (squares == 0) continue;
    double norm = finite_norm(want.subspan(begin, slice_size));
    if (!terms.empty()) norm = std::max(norm, finite_norm(terms.subspan(begin, slice_size)));
    worst = std::max(worst, std::sqrt(squares) / norm);
  }
  return worst;
}

double max_difference(std::span<const double> got, std::span<const double> want) {
  double worst = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    worst = std::max(worst, std::abs(difference(got[i], want[i])));
  }
  return worst;
}

std::int64_t count_different_tiles(const TileMask& a, const TileMask& b) {
  TileMask only_a = a;
  TileMask only_b = b;
  return (only_a -= b).count() + (only_b -= a).count();
}

std::int64_t count_wrong_marks(const TileMask& got,
                               const TileMask& want,
                               std::span<const double> scores,
                               double threshold,
                               double tolerance) {
  const std::vector<std::uint8_t> got_marked = got.to_dense();
  const std::vector<std::uint8_t> want_marked = want.to_dense();
  std::int64_t wrong = 0;
  for (std::size_t tile = 0; tile < scores.size(); ++tile) {
    const bool is_close = std::abs(scores[tile] - threshold) <= tolerance;
    if (got_marked[tile] != want_marked[tile] && !is_close) ++wrong;
  }
  return wrong;
}

}  // namespace saccade::cli

#include "methods/lite/threshold_search.h"

#include <algorithm>
#include <cmath>

namespace saccade::lite {
namespace {

constexpr double kCloseEnough = 0.9;     // of the target
constexpr std::int64_t kFinest = 64;     // steps into which the tiles are told apart
constexpr double kErrorOfNothing = 1.0;  // of an output of zeros: where no tile is left
// Of the target: what is assumed of the state as it is, before anything else is known.
constexpr double kErrorBefore = 1.0 / 16;
// The next try stays so far away from both ends, as a share of what lies between.
constexpr double kMargin = 0.1;

bool can_go(float score) {
  return std::isfinite(score) && score < 0;
}

}  // namespace

ThresholdSearch::ThresholdSearch(std::vector<float> scores, double target, double first_share)
    : scores_(std::move(scores)), target_(target) {
  std::erase_if(scores_, [](float score) { return !can_go(score); });
  std::ranges::sort(scores_);
  const auto total = static_cast<double>(scores_.size());
  count_ = with_ties(std::max<std::int64_t>(1, std::llround(first_share * total)));
}

std::optional<double> ThresholdSearch::next() const {
  if (count_ == 0) return std::nullopt;
  return scores_[count_ - 1];
}

bool ThresholdSearch::tell(double error) {
  const bool is_kept = error <= target_;
  (is_kept ? kept_ : exceeded_) = Point{count_, error};
  is_one_sided_ = last_ == is_kept;
  last_ = is_kept;
  count_ = next_count();
  return is_kept;
}

double ThresholdSearch::best_share() const {
  return kept_ ? static_cast<double>(kept_->count) / static_cast<double>(scores_.size()) : 0;
}

std::int64_t ThresholdSearch::with_ties(std::int64_t count) const {
  if (scores_.empty()) return 0;
  const float score = scores_[count - 1];
  const auto end = std::ranges::upper_bound(scores_, score) - scores_.begin();
  if (!exceeded_ || end < exceeded_->count) return end;
  return std::ranges::lower_bound(scores_, score) - scores_.begin();
}

bool ThresholdSearch::is_known_well() const {
  if (kept_ && kept_->error >= kCloseEnough * target_) return true;
  const auto total = static_cast<std::int64_t>(scores_.size());
  const std::int64_t low = kept_ ? kept_->count : 0;
  const std::int64_t high = exceeded_ ? exceeded_->count : total;
  return high - low <= (kept_ ? total / kFinest : 0);
}

std::int64_t ThresholdSearch::next_count() const {
  if (is_known_well()) return 0;
  const Point low = kept_.value_or(Point{0, kErrorBefore * target_});
  const Point high = exceeded_.value_or(
      Point{static_cast<std::int64_t>(scores_.size()), std::max(kErrorOfNothing, 2 * target_)});
  // Errors grow about exponentially with the tiles that go.
  double share = std::log(target_ / low.error) / std::log(high.error / low.error);
  // Where two tries fell on one side, the curve is not that: go half-way to the other side.
  if (is_one_sided_) share = *last_ ? (1 + share) / 2 : share / 2;
  share = std::isfinite(share) ? std::clamp(share, kMargin, 1 - kMargin) : 0.5;
  const std::int64_t between = high.count - low.count;
  const std::int64_t most = std::max<std::int64_t>(1, exceeded_ ? between - 1 : between);
  const auto more = std::llround(share * static_cast<double>(between));
  const std::int64_t next = with_ties(low.count + std::clamp<std::int64_t>(more, 1, most));
  return next > low.count ? next : 0;
}

}  // namespace saccade::lite

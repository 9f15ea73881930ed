#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace saccade::lite {

// The search for the threshold that drops most tiles within a relative error: which one to try
// next, from what was found so far.
class ThresholdSearch {
 public:
  // `scores` are those of the tiles that could go, in any order. Those that are 0, NaN or -inf stay
  // whatever the threshold. So large a share of the others is tried first, in [0, 1].
  ThresholdSearch(std::vector<float> scores, double target, double first_share);

  // The threshold to try; nothing once the best one is known well enough, or there is none.
  std::optional<double> next() const;

  // The error of the threshold that next() gave. Returns whether it keeps the target, and so is the
  // best one so far.
  bool tell(double error);

  // Of the tiles that could go, the share that the best threshold drops; 0 before there is one.
  double best_share() const;
  bool has_best() const { return kept_.has_value(); }

 private:
  struct Point {
    std::int64_t count;  // of tiles that are dropped, the lowest scores first
    double error;
  };

  // The number of tiles that next() drops; 0 = the search has ended.
  std::int64_t next_count() const;
  // What a count becomes when tiles of equal score go together.
  std::int64_t with_ties(std::int64_t count) const;
  bool is_known_well() const;

  std::vector<float> scores_;  // of the tiles that can go, ascending
  double target_;
  std::int64_t count_;             // that next() drops
  std::optional<Point> kept_;      // the largest count that keeps the target
  std::optional<Point> exceeded_;  // the smallest that does not
  std::optional<bool> last_;       // whether the last one kept it
  bool is_one_sided_ = false;      // the one before did what the last one did
};

}  // namespace saccade::lite

#pragma once

#include <saccade/context.h>
#include <saccade/lite.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

// Calibration of LiteAttention (arXiv 2511.11062 section 4.4): thresholds that keep a target, found
// along one dense trajectory. docs/calibration.md describes the method.

namespace saccade::lite {

// Sums over the elements of an output and of the dense output in its place, from which errors
// follow. Those of several heads, layers or steps add up.
struct ErrorSums {
  double difference = 0;  // |out - dense|
  double dense = 0;       // |dense|
  double squared_difference = 0;
  double squared_dense = 0;
  double squared_out = 0;
  double product = 0;  // out * dense

  ErrorSums& operator+=(const ErrorSums& other);

  // |out - dense|_1 / |dense|_1: the error of the paper. 0 where both are zero.
  double relative_l1() const;
  // Root of the mean squared difference, over that of the mean square of dense.
  double relative_rmse() const;
  // Cosine similarity of the two as vectors: 1 where they point the same way, or both are zero.
  double cosine() const;

  friend bool operator==(const ErrorSums&, const ErrorSums&) = default;
};

// The errors of each query head, over all samples. Both tensors are [batch, heads, length,
// head_dim], with one shape, a float dtype each, and unit stride in head_dim. NaN propagates.
// Throws InvalidArgument.
std::vector<ErrorSums> measure_errors(const Context& context,
                                      const TensorView& out,
                                      const TensorView& dense);

// The error that each step may have, by thirds of the steps: level - slope, level, level + slope
// (the paper's xi and tau), since what is lost early costs the most. Throws InvalidArgument unless
// 0 <= slope < level and steps >= 1.
std::vector<double> error_targets(double level, double slope, std::int64_t steps);

// What calibration keeps of one layer and branch between steps. The caller fills nothing in: the
// first step writes everything.
struct CalibrationStateView {
  TileMaskView mask{};  // tiles that the last step would have computed
  TensorView scores{};  // f32 [batch, heads, q_tiles, k_tiles], densely packed: what they scored
  TensorView ref{};     // with the lse reference, and only then: as in StateView
  TensorView shares{};  // f32 [heads]: of the tiles that could go, what each head dropped last
};

struct CalibrationOptions {
  Rule rule{};  // without mass_budget, reprobe_period, skips_values and the order strongest
  std::int64_t step = 0;

  // The schedule computes every tile at this step. So it does at the first.
  bool is_dense = false;

  // Relative L1 error of the output of this step, against dense attention over the same inputs,
  // that is aimed at: >= 0.
  double target = 0;

  // Each head keeps the target with a threshold of its own; else all of them with one.
  bool by_head = true;

  // What the search may cost: tiles that its attention calls compute, as a multiple of all tiles.
  // At least 1.
  double most_work = 2.5;

  std::optional<double> scale{};  // absent = 1 / sqrt(head_dim)

  // See ComputedTilesOptions.
  std::span<const TokenRange> protected_queries{};
  std::span<const TokenRange> protected_keys{};
  std::span<const TokenRange> skipped_queries{};
  std::span<const TokenRange> skipped_keys{};
};

struct CalibratedStep {
  // Of each query head at the step before this one; -inf, for "drops nothing", where this step is
  // dense, and where nothing could be dropped within the target.
  std::vector<double> thresholds{};

  // Of each query head at this step, with these thresholds.
  std::vector<ErrorSums> errors{};

  std::int64_t computed_tiles = 0;  // by this step with these thresholds
  std::int64_t searched_tiles = 0;  // computed to find them
};

// One step of the dense trajectory. `out`, with the shape and dtype of q, receives dense attention:
// that is what the trajectory goes on with. Beside it the step before is given the threshold that
// drops most within the target: its scores are known, each threshold leaves a mask, and attention
// over that mask at this step has an error. Thresholds are tried, each at the score of a tile, by
// interpolation between the last ones; a head whose error is within nine tenths of the target and
// the target is done. Only thresholds that were tried are given out. The chosen mask, and what its
// tiles score, are the state of the next step, so that errors add up as they will in use.
//
// The target may be missed, since what was dropped does not come back: then the threshold is -inf.
// `inputs.tiles` and `inputs.ref` are absent. Throws InvalidArgument or Unsupported before anything
// but `out` is written.
CalibratedStep calibrate_step(const Context& context,
                              const AttentionInputs& inputs,
                              const CalibrationOptions& options,
                              const CalibrationStateView& state,
                              const TensorView& out);

// Thresholds for which observe_step counts tiles, ascending: from -32 to -0.001, each 4 % closer to
// 0 than the one before.
const std::vector<double>& predicted_thresholds();

// One step of the dense trajectory that chooses nothing, but sees what every flat threshold would
// do. `out` receives dense attention, and state.scores the lowest score that each tile has had
// since the last dense step, whose own is the first: a tile is out once it has crossed the
// threshold at any step. Returns, for each of predicted_thresholds(), how many tiles this step
// would skip.
//
// The scores are those of dense attention. With the running reference those of a sparse generation
// are higher where the tiles are gone that the row maximum came from: the prediction is
// approximate. `options.target`, `by_head` and `most_work`, and state.shares, mean nothing here.
// Throws like calibrate_step.
std::vector<std::int64_t> observe_step(const Context& context,
                                       const AttentionInputs& inputs,
                                       const CalibrationOptions& options,
                                       const CalibrationStateView& state,
                                       const TensorView& out);

// One threshold for all layers, heads and steps.
struct FlatThreshold {
  double threshold = 0;
  double sparsity = 0;  // share of all tiles that it is predicted to skip
};

// The strictest of predicted_thresholds() that skips the share `sparsity` of `tiles`; `skipped` are
// counts of observe_step, added up over steps, branches and layers. Throws InvalidArgument for a
// share that is not in [0, 1) or that none of them reaches.
FlatThreshold choose_threshold(std::span<const std::int64_t> skipped,
                               std::int64_t tiles,
                               double sparsity);

}  // namespace saccade::lite

#pragma once

#include <saccade/attention.h>
#include <saccade/update_mask.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

// LiteAttention (arXiv 2511.11062): tiles found negligible at one denoising step are skipped at all
// later ones. Its whole state is one TileMask for each attention layer and guidance branch, full at
// the start of a generation.

namespace saccade::lite {

// When everything is computed, and from which score on a computed tile is dropped.
struct Schedule {
  // <= 0, log2 units: a tile is dropped once no softmax weight in it exceeds 2^threshold, measured
  // against the running row maximum (section 3.1, eq. 7, with eps = -threshold * ln 2). Closer to 0
  // drops more; -inf drops nothing.
  double threshold = -8.0;

  // Thresholds of single steps; entry i is that of step i. Empty = `threshold` for all of them.
  std::vector<double> thresholds{};

  // The first and last steps compute every tile, and mark tiles like any other step.
  std::int64_t dense_first_steps = 1;
  std::int64_t dense_last_steps = 0;

  // Steps of a generation; 0 = unknown. Needed for dense_last_steps.
  std::int64_t num_steps = 0;
};

// What a schedule says about one step.
struct StepPlan {
  bool is_dense = false;
  double threshold = 0;

  friend bool operator==(const StepPlan&, const StepPlan&) = default;
};

// Throws InvalidArgument if the schedule contradicts itself: a threshold that is NaN or positive, a
// negative number of steps, dense_last_steps without num_steps, thresholds of fewer steps than
// num_steps, more dense steps than steps.
void validate(const Schedule& schedule);

// The plan of step `step`, counted from 0. Throws like validate, and for a step that is negative,
// not below num_steps, or without an entry in `thresholds`.
StepPlan plan_step(const Schedule& schedule, std::int64_t step);

// Turns the timestep that a transformer is called with, which falls during a generation, into step
// numbers, so that guidance branches, skipped blocks and repeated calls do not shift them.
class Clock {
 public:
  // The step of a call at this timestep: the same as before for the same timestep, one more for a
  // lower one, 0 for a higher one (a new generation) and for the first. Throws InvalidArgument for
  // NaN.
  std::int64_t advance(double timestep);

 private:
  std::optional<double> timestep_;
  std::int64_t step_ = 0;
};

// What the state of one layer and branch was last used for.
struct LastCall {
  TileGrid grid{};
  std::int64_t step = 0;
};

// Whether the state must start anew, with a full mask: at its first call, at step 0, when the step
// falls (a new generation), and when batch, heads, lengths or tiles are others.
bool must_reset(const std::optional<LastCall>& last, const LastCall& now);

struct StepOptions {
  StepPlan plan{};
  std::optional<double> scale{};  // absent = 1 / sqrt(head_dim)
  VisitOrder order = VisitOrder::linear;
  // Tokens whose tiles are never skipped (text, audio), rounded outward to tiles.
  std::span<const TokenRange> protected_queries{};
  std::span<const TokenRange> protected_keys{};
};

// One step: attention over the active tiles of `state` (over all tiles if the plan is dense), then
//   state <- (state & ~computed) | (computed & ~marked) | protected.
// `inputs.tiles` and `inputs.ref` are absent; `state` has the grid of the inputs, and so has
// `outputs.marks`, which must be given and receives the tiles dropped at this step. Inference only:
// there is no gradient with respect to the choice of tiles. Throws InvalidArgument or Unsupported,
// before anything is written.
void step(const Context& context,
          const AttentionInputs& inputs,
          const StepOptions& options,
          const TileMaskView& state,
          const AttentionForwardOutputs& outputs);

}  // namespace saccade::lite

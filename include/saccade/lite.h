#pragma once

#include <saccade/attention.h>
#include <saccade/lite_schedule.h>
#include <saccade/update_mask.h>

#include <cstdint>
#include <optional>
#include <span>

// LiteAttention (arXiv 2511.11062): tiles found negligible at one denoising step are skipped at all
// later ones. Its whole state is one TileMask for each attention layer and guidance branch, full at
// the start of a generation.

namespace saccade::lite {

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
  StepPlan plan{};                // one threshold for all heads; one for each is Unsupported
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

#pragma once

#include <saccade/attention.h>
#include <saccade/lite_schedule.h>
#include <saccade/update_mask.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

// LiteAttention (arXiv 2511.11062): tiles found negligible at one denoising step are skipped at all
// later ones. Its state is a TileMask for each attention layer and guidance branch, full at the
// start of a generation; rules beyond the paper's add a few numbers for each row.

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

// What scores are measured against (see AttentionForwardOutputs::scores).
enum class Reference {
  running,  // the row maximum so far: the paper's rule, which depends on the visiting order
  lse,      // the row's lse of the step before, corrected by the largest fall of lse since
};

std::string_view name_of(Reference reference);

// In which order a row visits its tiles. The running reference keeps what comes first and judges
// best what comes late.
enum class Order {
  linear,
  reversed,
  alternating,  // linear on even steps, reversed on odd ones
  radial,       // from the diagonal outwards
  strongest,    // by falling score of the step that last computed a tile; see StateView::scores
};

std::string_view name_of(Order order);

// That of a step after the first.
VisitOrder visit_order(Order order, std::int64_t step);

// How it is decided which tiles are dropped, and which come back. The default is the paper's rule;
// everything else goes beyond it.
struct Rule {
  // What thresholds and budgets are compared with. Masses are those of the step itself: with them
  // there is no reference to choose, and the order changes rounding only.
  Measure measure = Measure::largest_weight;
  Reference reference = Reference::running;
  // Strongest only where the order decides: with largest weights and the running reference.
  Order order = Order::linear;

  // >= 0: a row of tiles drops tiles only while the bounds on their softmax mass, summed over all
  // steps, stay within this (see update_mask); absent = no limit. Needs scores.
  std::optional<double> mass_budget{};

  // R > 0: every step also computes one in R of the tiles that were dropped, and those that score
  // above the threshold are back; 0 = what is dropped stays dropped.
  std::int64_t reprobe_period = 0;

  // What a step finds negligible it leaves out of its own sums as well, by panels of rows (see
  // AttentionForwardOptions::skips_values), but not at dense steps. With largest weights, the
  // running reference, one threshold for all heads, below 0; without mass_budget, which pays for
  // whole tiles, and without protected tokens, which are never left out.
  bool skips_values = false;
};

// Throws InvalidArgument for a budget or a period that is negative, or NaN, for masses with the
// lse reference, for the order strongest with either of them, and for skips_values with any of
// these or a budget.
void validate(const Rule& rule);

// The state of one layer and guidance branch.
struct StateView {
  TileMaskView mask{};  // tiles that the next step computes

  // With the lse reference, and only then: [batch, heads, q_len], densely packed, f32 (f64 with f64
  // inputs): the lse of the last step.
  // 4 bytes for each query and head, where the mask has k_tiles / (8 * block_q).
  TensorView ref{};

  // With a mass budget, and only then: f32 [batch, heads, q_tiles], densely packed (see
  // UpdateMaskOutputs).
  TensorView spent{};

  // With the order strongest, and only then: f32 [batch, heads, q_tiles, k_tiles], densely packed:
  // what each tile scored when it was last computed, NaN where it never was, so that it comes
  // first. In place of a score of 0 stands the number of tiles that its row visited before: each
  // tile that raises a maximum scores 0, and the later one is the stronger. 4 bytes for each tile,
  // 32 times the mask.
  TensorView scores{};
};

struct StepOptions {
  StepPlan plan{};
  Rule rule{};
  std::int64_t step = 0;

  // The state is new: mask full, spent zero, ref and scores unwritten. Its first step has no lse to
  // compare with and takes the running reference, whose scores are bounds as well; it has no scores
  // to sort by and visits tiles in linear order.
  bool is_first = true;

  // The keys are a shard of all that the queries attend to: the step leaves its decisions to
  // finish_step, which is told the lse of all shards. So tiles are judged by their share of the
  // whole softmax, and nothing is kept because it is the best of a shard that matters little. With
  // the lse reference only.
  bool is_partial = false;

  std::optional<double> scale{};  // absent = 1 / sqrt(head_dim)

  // See ComputedTilesOptions.
  std::span<const TokenRange> protected_queries{};
  std::span<const TokenRange> protected_keys{};
  std::span<const TokenRange> skipped_queries{};
  std::span<const TokenRange> skipped_keys{};
};

struct StepOutputs {
  TensorView out{};
  TensorView lse{};         // optional; needed with the lse reference
  TileMaskView computed{};  // receives the tiles that this step computed
  // What attention found; exactly one of the two. Scores are needed where needs_scores says so.
  TileMaskView marks{};
  TensorView scores{};
  TensorView probed_mass{};  // optional, with scores: see UpdateMaskOutputs
  // For partial steps, written by finish_step: f32 [batch, heads, q_tiles], densely packed. The
  // largest fall of lse in each row of tiles since the step before, log2 units.
  TensorView fall{};
};

// Whether marks, one bit for each tile, are not enough.
bool needs_scores(const StepOptions& options);

// One step:
//   computed = (state | stripe | protected) & ~skipped, or everything in place of state if dense
//   out      = attention over `computed`
//   state    = (state & ~computed) | (computed & ~marked) | protected
// `inputs.tiles` and `inputs.ref` are absent; all masks have the grid of the inputs. Inference
// only: there is no gradient with respect to the choice of tiles. Throws InvalidArgument or
// Unsupported before anything but `computed` is written.
void step(const Context& context,
          const AttentionInputs& inputs,
          const StepOptions& options,
          const StateView& state,
          const StepOutputs& outputs);

// The rest of a partial step, once the outputs of all shards have been merged (see merge_partials):
// `lse`, with the shape and dtype of state.ref, is that of all keys, and `inputs`, `options`,
// `state` and `outputs` are what the step was given; only q_lens and k_lens of the inputs are read.
// Throws InvalidArgument before anything is written.
void finish_step(const Context& context,
                 const AttentionInputs& inputs,
                 const StepOptions& options,
                 const TensorView& lse,
                 const StateView& state,
                 const StepOutputs& outputs);

}  // namespace saccade::lite

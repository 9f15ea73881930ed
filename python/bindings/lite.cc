#include "arguments.h"
#include "ops.h"
#include "tensor_views.h"
#include "torch_executor.h"

#include <saccade/error.h>
#include <saccade/lite.h>

#include <torch/csrc/stable/ops.h>

#include <initializer_list>
#include <numeric>

namespace saccade::python {
namespace {

// Active tiles of each head, [batch, heads].
Tensor count_active_by_head(const TileMaskView& mask) {
  const TileGrid& grid = mask.grid;
  const std::int64_t shape[] = {grid.batch, grid.heads};
  Tensor counts = torch::stable::empty({shape, 2}, torch::headeronly::ScalarType::Long);
  auto* count = static_cast<std::int64_t*>(counts.mutable_data_ptr());
  for (std::int64_t head = 0; head < grid.batch * grid.heads; ++head) {
    TileMaskView one_head = mask;
    one_head.grid.batch = one_head.grid.heads = 1;
    one_head.words = mask.row(head * grid.q_tiles());
    count[head] = count_active(one_head);
  }
  return counts;
}

// The mean over the rows of tiles of each head, [batch, heads], of a [batch, heads, q_tiles]
// tensor.
Tensor mean_over_rows(const Tensor& rows, const TileGrid& grid) {
  const std::int64_t shape[] = {grid.batch, grid.heads};
  Tensor means = torch::stable::empty({shape, 2}, torch::headeronly::ScalarType::Float);
  const auto* from = static_cast<const float*>(rows.const_data_ptr());
  auto* mean = static_cast<float*>(means.mutable_data_ptr());
  for (std::int64_t head = 0; head < grid.batch * grid.heads; ++head, from += grid.q_tiles()) {
    mean[head] =
        std::accumulate(from, from + grid.q_tiles(), 0.0f) / static_cast<float>(grid.q_tiles());
  }
  return means;
}

Tensor empty_floats(std::initializer_list<std::int64_t> shape) {
  return torch::stable::empty({shape.begin(), shape.size()}, torch::headeronly::ScalarType::Float);
}

Tensor empty_scores(const TileGrid& grid) {
  return empty_floats({grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
}

Tensor no_words() {
  const std::int64_t shape[] = {0};
  return torch::stable::empty({shape, 1}, torch::headeronly::ScalarType::Long);
}

}  // namespace

void lite_check_rule(std::int64_t measure,
                     std::int64_t reference,
                     std::int64_t order,
                     std::optional<double> mass_budget,
                     std::int64_t reprobe_period,
                     bool skips_values) {
  lite::validate(rule_from(measure, reference, order, mass_budget, reprobe_period, skips_values));
}

std::int64_t lite_step_number(const std::vector<double>& timesteps) {
  lite::Clock clock;
  std::int64_t step = 0;
  for (const double timestep : timesteps) step = clock.advance(timestep);
  return step;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lite_step(
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const Tensor& mask,
    const std::optional<Tensor>& ref,
    const std::optional<Tensor>& spent,
    const std::optional<Tensor>& last_scores,
    const std::optional<Tensor>& q_lens,
    const std::optional<Tensor>& k_lens,
    std::optional<double> scale,
    std::int64_t block_q,
    std::int64_t block_k,
    std::int64_t step,
    bool is_first,
    bool is_partial,
    bool is_dense,
    const std::vector<double>& thresholds,
    std::int64_t measure,
    std::int64_t reference,
    std::int64_t order,
    std::optional<double> mass_budget,
    std::int64_t reprobe_period,
    bool skips_values,
    const std::vector<std::int64_t>& protected_queries,
    const std::vector<std::int64_t>& protected_keys,
    const std::vector<std::int64_t>& skipped_queries,
    const std::vector<std::int64_t>& skipped_keys) {
  const AttentionInputs inputs{.q = view_of(q, "q"),
                               .k = view_of(k, "k"),
                               .v = view_of(v, "v"),
                               .tiles = {},
                               .q_lens = view_of(q_lens, "q_lens"),
                               .k_lens = view_of(k_lens, "k_lens"),
                               .ref = {}};
  const TileGrid grid = grid_of(inputs.q, inputs.k, block_q, block_k);
  const lite::StateView state{.mask = mask_of(mask, grid),
                              .ref = view_of(ref, "ref"),
                              .spent = view_of(spent, "spent"),
                              .scores = view_of(last_scores, "last_scores")};
  const std::vector<TokenRange> must_do_queries =
      ranges_from(protected_queries, "protected_queries");
  const std::vector<TokenRange> must_do_keys = ranges_from(protected_keys, "protected_keys");
  const std::vector<TokenRange> must_skip_queries = ranges_from(skipped_queries, "skipped_queries");
  const std::vector<TokenRange> must_skip_keys = ranges_from(skipped_keys, "skipped_keys");
  const lite::StepOptions options{
      .plan = {.is_dense = is_dense, .thresholds = thresholds},
      .rule = rule_from(measure, reference, order, mass_budget, reprobe_period, skips_values),
      .step = step,
      .is_first = is_first,
      .is_partial = is_partial,
      .scale = scale,
      .protected_queries = must_do_queries,
      .protected_keys = must_do_keys,
      .skipped_queries = must_skip_queries,
      .skipped_keys = must_skip_keys};

  Tensor out = torch::stable::empty_like(q);
  Tensor lse = empty_lse(q);
  Tensor computed = torch::stable::empty_like(mask);
  lite::StepOutputs outputs{
      .out = view_of(out, "out"), .lse = view_of(lse, "lse"), .computed = mask_of(computed, grid)};
  // Scores are four bytes for each tile, marks one bit: scores only where something reads them.
  const bool is_probing = reprobe_period > 0;
  std::optional<Tensor> marks, scores, probed;
  if (is_probing || lite::needs_scores(options)) {
    scores = empty_scores(grid);
    outputs.scores = view_of(*scores, "scores");
  } else {
    marks = torch::stable::empty_like(mask);
    outputs.marks = mask_of(*marks, grid);
  }
  if (is_probing && !is_partial) {
    probed = empty_floats({grid.batch, grid.heads, grid.q_tiles()});
    outputs.probed_mass = view_of(*probed, "probed_mass");
  }
  TorchExecutor executor;
  Context context;
  context.executor = &executor;
  lite::step(context, inputs, options, state, outputs);
  Tensor active = count_active_by_head(outputs.computed);
  Tensor probed_mass = probed ? mean_over_rows(*probed, grid) : empty_floats({0});
  if (is_partial) return {out, lse, active, probed_mass, computed, *scores};
  return {out, lse, active, probed_mass, no_words(), empty_floats({0})};
}

Tensor lite_finish_step(const Tensor& lse,
                        const Tensor& mask,
                        const Tensor& ref,
                        const std::optional<Tensor>& spent,
                        const Tensor& computed,
                        const Tensor& scores,
                        const std::optional<Tensor>& q_lens,
                        const std::optional<Tensor>& k_lens,
                        const std::vector<std::int64_t>& extents,
                        bool is_first,
                        bool is_probing,
                        const std::vector<double>& thresholds,
                        std::optional<double> mass_budget,
                        const std::vector<std::int64_t>& protected_queries,
                        const std::vector<std::int64_t>& protected_keys) {
  const TileGrid grid = grid_from(extents);
  AttentionInputs inputs;
  inputs.q.dtype = view_of(lse, "lse").dtype;
  inputs.q_lens = view_of(q_lens, "q_lens");
  inputs.k_lens = view_of(k_lens, "k_lens");
  const std::vector<TokenRange> must_do_queries =
      ranges_from(protected_queries, "protected_queries");
  const std::vector<TokenRange> must_do_keys = ranges_from(protected_keys, "protected_keys");
  const lite::StepOptions options{
      .plan = {.is_dense = false, .thresholds = thresholds},
      .rule = {.reference = lite::Reference::lse, .mass_budget = mass_budget},
      .is_first = is_first,
      .is_partial = true,
      .protected_queries = must_do_queries,
      .protected_keys = must_do_keys};

  const Tensor fall = empty_floats({grid.batch, grid.heads, grid.q_tiles()});
  lite::StepOutputs outputs{.lse = view_of(lse, "lse"),
                            .computed = mask_of(computed, grid),
                            .scores = view_of(scores, "scores"),
                            .fall = view_of(fall, "fall")};
  std::optional<Tensor> probed;
  if (is_probing) {
    probed = empty_floats({grid.batch, grid.heads, grid.q_tiles()});
    outputs.probed_mass = view_of(*probed, "probed_mass");
  }
  TorchExecutor executor;
  Context context;
  context.executor = &executor;
  lite::finish_step(
      context, inputs, options, view_of(lse, "lse"),
      {.mask = mask_of(mask, grid), .ref = view_of(ref, "ref"), .spent = view_of(spent, "spent")},
      outputs);
  return probed ? mean_over_rows(*probed, grid) : empty_floats({0});
}

bool lite_must_reset(const std::vector<std::int64_t>& last_grid,
                     std::int64_t last_step,
                     const std::vector<std::int64_t>& grid,
                     std::int64_t step) {
  if (last_grid.empty()) return true;
  return lite::must_reset(lite::LastCall{grid_from(last_grid), last_step}, {grid_from(grid), step});
}

}  // namespace saccade::python

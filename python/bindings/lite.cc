#include "arguments.h"
#include "ops.h"
#include "tensor_views.h"
#include "torch_executor.h"

#include <saccade/error.h>
#include <saccade/lite.h>

#include <fmt/format.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>

namespace saccade::python {
namespace {

VisitOrder order_of(const std::string& name) {
  for (const VisitOrder order : {VisitOrder::linear, VisitOrder::reversed, VisitOrder::radial}) {
    if (name_of(order) == name) return order;
  }
  throw InvalidArgument(fmt::format("order must be linear, reversed or radial, got '{}'", name));
}

// Active tiles of each head, [batch, heads]; of a dense step, all of them.
Tensor count_active_by_head(const TileMaskView& state, bool is_dense) {
  const TileGrid& grid = state.grid;
  const std::int64_t shape[] = {grid.batch, grid.heads};
  Tensor counts = torch::stable::empty({shape, 2}, torch::headeronly::ScalarType::Long);
  auto* count = static_cast<std::int64_t*>(counts.mutable_data_ptr());
  for (std::int64_t head = 0; head < grid.batch * grid.heads; ++head) {
    TileMaskView one_head = state;
    one_head.grid.batch = one_head.grid.heads = 1;
    one_head.words = state.row(head * grid.q_tiles());
    count[head] = is_dense ? one_head.grid.tiles() : count_active(one_head);
  }
  return counts;
}

}  // namespace

std::tuple<bool, double> lite_plan_step(double threshold,
                                        const std::vector<double>& thresholds,
                                        std::int64_t dense_first_steps,
                                        std::int64_t dense_last_steps,
                                        std::int64_t num_steps,
                                        std::int64_t step) {
  const lite::StepPlan plan = lite::plan_step({.threshold = threshold,
                                               .thresholds = thresholds,
                                               .dense_first_steps = dense_first_steps,
                                               .dense_last_steps = dense_last_steps,
                                               .num_steps = num_steps},
                                              step);
  return {plan.is_dense, plan.threshold};
}

std::int64_t lite_step_number(const std::vector<double>& timesteps) {
  lite::Clock clock;
  std::int64_t step = 0;
  for (const double timestep : timesteps) step = clock.advance(timestep);
  return step;
}

std::tuple<Tensor, Tensor, Tensor> lite_step(const Tensor& q,
                                             const Tensor& k,
                                             const Tensor& v,
                                             const Tensor& state,
                                             const std::optional<Tensor>& q_lens,
                                             const std::optional<Tensor>& k_lens,
                                             std::optional<double> scale,
                                             std::int64_t block_q,
                                             std::int64_t block_k,
                                             bool is_dense,
                                             double threshold,
                                             const std::string& order,
                                             const std::vector<std::int64_t>& protected_queries,
                                             const std::vector<std::int64_t>& protected_keys) {
  const AttentionInputs inputs{.q = view_of(q, "q"),
                               .k = view_of(k, "k"),
                               .v = view_of(v, "v"),
                               .tiles = {},
                               .q_lens = view_of(q_lens, "q_lens"),
                               .k_lens = view_of(k_lens, "k_lens"),
                               .ref = {}};
  const TileGrid grid = grid_of(inputs.q, inputs.k, block_q, block_k);
  const TileMaskView mask = mask_of(state, grid);
  const std::vector<TokenRange> queries = ranges_from(protected_queries, "protected_queries");
  const std::vector<TokenRange> keys = ranges_from(protected_keys, "protected_keys");
  const lite::StepOptions options{.plan = {.is_dense = is_dense, .threshold = threshold},
                                  .scale = scale,
                                  .order = order_of(order),
                                  .protected_queries = queries,
                                  .protected_keys = keys};

  Tensor out = torch::stable::empty_like(q);
  Tensor lse = empty_lse(q);
  const Tensor marks = torch::stable::empty_like(state);
  Tensor active = count_active_by_head(mask, is_dense);
  TorchExecutor executor;
  Context context;
  context.executor = &executor;
  lite::step(context, inputs, options, mask,
             {.out = view_of(out, "out"),
              .lse = view_of(lse, "lse"),
              .marks = mask_of(marks, grid),
              .scores = {}});
  return {out, lse, active};
}

bool lite_must_reset(const std::vector<std::int64_t>& last_grid,
                     std::int64_t last_step,
                     const std::vector<std::int64_t>& grid,
                     std::int64_t step) {
  if (last_grid.empty()) return true;
  return lite::must_reset(lite::LastCall{grid_from(last_grid), last_step}, {grid_from(grid), step});
}

}  // namespace saccade::python

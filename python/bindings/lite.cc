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

std::vector<TokenRange> ranges_of(const std::vector<std::int64_t>& bounds, const char* name) {
  if (bounds.size() % 2 != 0) {
    throw InvalidArgument(fmt::format("{} has {} bounds, but needs begin and end of each range",
                                      name, bounds.size()));
  }
  std::vector<TokenRange> ranges;
  for (std::size_t i = 0; i < bounds.size(); i += 2) ranges.push_back({bounds[i], bounds[i + 1]});
  return ranges;
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
  const std::vector<TokenRange> queries = ranges_of(protected_queries, "protected_queries");
  const std::vector<TokenRange> keys = ranges_of(protected_keys, "protected_keys");
  const lite::StepOptions options{.plan = {.is_dense = is_dense, .thresholds = {threshold}},
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
  const auto grid_from = [](const std::vector<std::int64_t>& extents) {
    if (extents.size() != 6) {
      throw InvalidArgument(fmt::format("a grid has 6 extents, got {}", extents.size()));
    }
    return TileGrid{extents[0],
                    extents[1],
                    extents[2],
                    extents[3],
                    static_cast<int>(extents[4]),
                    static_cast<int>(extents[5])};
  };
  if (last_grid.empty()) return true;
  return lite::must_reset(lite::LastCall{grid_from(last_grid), last_step}, {grid_from(grid), step});
}

}  // namespace saccade::python

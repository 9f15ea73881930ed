#include "arguments.h"
#include "ops.h"
#include "tensor_views.h"
#include "torch_executor.h"

#include <saccade/routing.h>

#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

namespace saccade::python {
namespace {

using torch::headeronly::ScalarType;

ScalarType mean_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace

Tensor pool_tiles(const Tensor& x, const std::optional<Tensor>& lens, std::int64_t block) {
  const PoolTilesInputs inputs{.x = view_of(x, "x"), .lens = view_of(lens, "lens")};
  const TileGrid grid = grid_of(inputs.x, inputs.x, block, block);
  TorchExecutor executor;
  const Context context{.executor = &executor, .workspace = {}, .backend = {}};
  const std::int64_t shape[] = {grid.batch, grid.heads, grid.q_tiles(), x.sizes()[3]};
  Tensor means = torch::stable::empty({shape, 4}, mean_dtype(x));
  saccade::pool_tiles(context, inputs, {.block = grid.block_q}, view_of(means, "means"));
  return means;
}

std::tuple<Tensor, Tensor> select_tiles(const Tensor& q_means,
                                        const Tensor& k_means,
                                        std::int64_t q_len,
                                        std::int64_t k_len,
                                        std::int64_t block_q,
                                        std::int64_t block_k,
                                        const std::optional<Tensor>& q_lens,
                                        const std::optional<Tensor>& k_lens,
                                        const std::optional<Tensor>& always,
                                        std::optional<double> scale,
                                        double critical_ratio,
                                        std::int64_t critical_count,
                                        double critical_mass,
                                        double negligible_ratio,
                                        std::int64_t negligible_count) {
  SelectTilesInputs inputs{.q = view_of(q_means, "q_means"),
                           .k = view_of(k_means, "k_means"),
                           .q_lens = view_of(q_lens, "q_lens"),
                           .k_lens = view_of(k_lens, "k_lens")};
  inputs.grid = grid_of(inputs.q, inputs.k, block_q, block_k);
  inputs.grid.q_len = q_len;
  inputs.grid.k_len = k_len;
  validate(inputs.grid);
  inputs.always = mask_of(always, inputs.grid);
  const SelectTilesOptions options{.scale = scale,
                                   .critical = share_from(critical_ratio, critical_count),
                                   .critical_mass = critical_mass,
                                   .negligible = share_from(negligible_ratio, negligible_count)};
  TorchExecutor executor;
  const Context context{.executor = &executor, .workspace = {}, .backend = {}};
  const Tensor critical = empty_words(inputs.grid);
  const Tensor marginal = empty_words(inputs.grid);
  saccade::select_tiles(
      context, inputs, options,
      {.critical = mask_of(critical, inputs.grid), .marginal = mask_of(marginal, inputs.grid)});
  return {critical, marginal};
}

}  // namespace saccade::python

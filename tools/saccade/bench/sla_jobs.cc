#include "bench/sla_jobs.h"

#include <saccade/baselines.h>
#include <saccade/routing.h>
#include <saccade/sparse_linear.h>

#include <memory>

namespace saccade::cli {
namespace {

constexpr std::uint64_t kCriticalSeed = 0;
constexpr std::uint64_t kMarginalSeed = 1;

struct Sla {
  Sla(const Context& call_context, const Operands& call_operands)
      : context(call_context),
        operands(call_operands),
        grid(operands.grid),
        out(operands.make_tensor(grid.q_len)),
        linear_out(operands.make_tensor(grid.q_len)),
        lse(DType::f32, {grid.batch, grid.heads, grid.q_len}),
        q_means(DType::f32, {grid.batch, grid.heads, grid.q_tiles(), operands.head_dim}),
        k_means(DType::f32, {grid.batch, grid.heads, grid.k_tiles(), operands.head_dim}),
        critical(baselines::random_tiles(grid, 1 - kCriticalShare, kCriticalSeed)),
        marginal(baselines::random_tiles(grid, 1 - kMarginalShare, kMarginalSeed)),
        selected_critical(grid),
        selected_marginal(grid) {}

  void route() const {
    pool_tiles(context, {.x = operands.q.view()}, {.block = grid.block_q}, q_means.view());
    pool_tiles(context, {.x = operands.k.view()}, {.block = grid.block_k}, k_means.view());
    select_tiles(context, {.grid = grid, .q = q_means.view(), .k = k_means.view()}, {},
                 {.critical = selected_critical.view(), .marginal = selected_marginal.view()});
  }

  LinearInputs linear_inputs(bool is_masked) const {
    return {.q = operands.q.view(),
            .k = operands.k.view(),
            .v = operands.v.view(),
            .tiles = is_masked ? marginal.view() : TileMaskView{}};
  }

  LinearGradients gradients() const {
    return {.dq = operands.dq.view(), .dk = operands.dk.view(), .dv = operands.dv.view()};
  }

  void linear(Pass pass, bool is_masked) const {
    if (pass == Pass::forward) {
      linear_forward(context, linear_inputs(is_masked), {}, linear_out.view());
    } else {
      linear_backward(context,
                      {.forward = linear_inputs(is_masked),
                       .out = linear_out.view(),
                       .dout = operands.dout.view()},
                      {}, gradients());
    }
  }

  void both_branches(Pass pass) const {
    const SparseLinearInputs inputs = {.q = operands.q.view(),
                                       .k = operands.k.view(),
                                       .v = operands.v.view(),
                                       .critical = critical.view(),
                                       .marginal = marginal.view()};
    if (pass == Pass::forward) {
      sparse_linear_forward(
          context, inputs, {},
          {.out = out.view(), .lse = lse.view(), .linear_out = linear_out.view()});
    } else {
      sparse_linear_backward(context,
                             {.forward = inputs,
                              .out = out.view(),
                              .lse = lse.view(),
                              .linear_out = linear_out.view(),
                              .dout = operands.dout.view(),
                              .dlinear_out = operands.dout.view()},
                             {}, gradients());
    }
  }

  Context context;
  const Operands& operands;
  TileGrid grid;
  HostTensor out, linear_out, lse, q_means, k_means;
  TileMask critical, marginal, selected_critical, selected_marginal;
};

}  // namespace

std::vector<Job> sla_jobs(const Context& context, const Operands& operands) {
  const auto sla = std::make_shared<const Sla>(context, operands);
  const TileGrid& grid = operands.grid;
  const double head_dim = operands.head_dim;
  const double token_pairs = static_cast<double>(grid.batch * grid.heads) *
                             static_cast<double>(grid.q_len + grid.k_len) / 2;
  std::vector<Job> jobs;
  jobs.push_back({.kernel = "routing",
                  .pass = Pass::forward,
                  .flops = 2 * static_cast<double>(grid.tiles()) * head_dim,
                  .bytes = operands.bytes(2),
                  .run = [sla] { sla->route(); }});
  for (const bool is_masked : {false, true}) {
    for (const Pass pass : {Pass::forward, Pass::backward}) {
      const double products = pass == Pass::forward ? 2 : 6;
      jobs.push_back(
          {.kernel = is_masked ? "linear, marginal" : "linear, all",
           .pass = pass,
           .sparsity = is_masked ? std::optional(sla->marginal.sparsity()) : std::nullopt,
           .flops = 2 * products * token_pairs * head_dim * head_dim,
           .bytes = operands.bytes(pass == Pass::forward ? 4 : 8),
           .run = [sla, pass, is_masked] { sla->linear(pass, is_masked); }});
    }
  }
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    const double active = 1 - sla->critical.sparsity();
    const double products = pass == Pass::forward ? 2 : 5;
    const double linear_products = pass == Pass::forward ? 2 : 6;
    jobs.push_back({.kernel = "sla",
                    .pass = pass,
                    .sparsity = sla->critical.sparsity(),
                    .flops = 2 * products * active * operands.logits() * head_dim +
                             2 * linear_products * token_pairs * head_dim * head_dim,
                    .bytes = operands.bytes(pass == Pass::forward ? 5 : 10),
                    .run = [sla, pass] { sla->both_branches(pass); }});
  }
  return jobs;
}

}  // namespace saccade::cli

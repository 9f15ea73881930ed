#include "bench/attention_jobs.h"

#include <saccade/attention.h>
#include <saccade/baselines.h>

#include <memory>

namespace saccade::cli {
namespace {

// The paper's default is of this size; what it marks does not change the time.
constexpr double kThreshold = -8;

constexpr std::uint64_t kSeed = 0;

// Attention that is dense or over tiles drawn at random, with everything that both passes need.
struct Attention {
  Attention(const Context& call_context,
            const Operands& call_operands,
            std::optional<double> sparsity)
      : context(call_context),
        operands(call_operands),
        out(operands.make_tensor(operands.grid.q_len)),
        lse(DType::f32, {operands.grid.batch, operands.grid.heads, operands.grid.q_len}),
        marks(operands.grid) {
    if (sparsity) tiles = baselines::random_tiles(operands.grid, *sparsity, kSeed);
  }

  TileMaskView tiles_view() const { return tiles ? tiles->view() : TileMaskView{}; }

  void forward() const {
    attention_forward(
        context,
        {.q = operands.q.view(),
         .k = operands.k.view(),
         .v = operands.v.view(),
         .tiles = tiles_view()},
        {.threshold = tiles ? std::optional(kThreshold) : std::nullopt,
         .block_q = operands.grid.block_q,
         .block_k = operands.grid.block_k},
        {.out = out.view(), .lse = lse.view(), .marks = tiles ? marks.view() : TileMaskView{}});
  }

  void backward() const {
    attention_backward(
        context,
        {.q = operands.q.view(),
         .k = operands.k.view(),
         .v = operands.v.view(),
         .tiles = tiles_view(),
         .out = out.view(),
         .lse = lse.view(),
         .dout = operands.dout.view()},
        {.block_q = operands.grid.block_q, .block_k = operands.grid.block_k},
        {.dq = operands.dq.view(), .dk = operands.dk.view(), .dv = operands.dv.view()});
  }

  Context context;
  const Operands& operands;
  HostTensor out, lse;
  std::optional<TileMask> tiles;
  TileMask marks;
};

}  // namespace

std::vector<Job> attention_jobs(const Context& context,
                                const Operands& operands,
                                const std::vector<double>& sparsities) {
  std::vector<std::shared_ptr<const Attention>> variants;
  variants.push_back(std::make_shared<const Attention>(context, operands, std::nullopt));
  for (const double sparsity : sparsities) {
    variants.push_back(std::make_shared<const Attention>(context, operands, sparsity));
  }
  std::vector<Job> jobs;
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    for (const auto& variant : variants) {
      const double active = variant->tiles ? 1 - variant->tiles->sparsity() : 1;
      const double products = pass == Pass::forward ? 2 : 5;
      jobs.push_back(
          {.kernel = "attention",
           .pass = pass,
           .sparsity = variant->tiles ? std::optional(variant->tiles->sparsity()) : std::nullopt,
           .flops = 2 * products * active * operands.logits() * operands.head_dim,
           .bytes = operands.bytes(pass == Pass::forward ? 4 : 8),
           .run = [variant, pass] {
             pass == Pass::forward ? variant->forward() : variant->backward();
           }});
    }
  }
  return jobs;
}

}  // namespace saccade::cli

#include "ops.h"
#include "tensor_views.h"
#include "torch_executor.h"

#include <saccade/attention.h>

#include <torch/csrc/stable/ops.h>

namespace saccade::python {
std::tuple<Tensor, Tensor> attention_forward(const Tensor& q,
                                             const Tensor& k,
                                             const Tensor& v,
                                             const std::optional<Tensor>& tiles,
                                             const std::optional<Tensor>& q_lens,
                                             const std::optional<Tensor>& k_lens,
                                             std::optional<double> scale,
                                             std::int64_t block_q,
                                             std::int64_t block_k) {
  AttentionInputs inputs{.q = view_of(q, "q"),
                         .k = view_of(k, "k"),
                         .v = view_of(v, "v"),
                         .tiles = {},
                         .q_lens = view_of(q_lens, "q_lens"),
                         .k_lens = view_of(k_lens, "k_lens"),
                         .ref = {}};
  const TileGrid grid = grid_of(inputs.q, inputs.k, block_q, block_k);
  inputs.tiles = mask_of(tiles, grid);
  AttentionForwardOptions options;
  options.scale = scale;
  options.block_q = grid.block_q;
  options.block_k = grid.block_k;

  TorchExecutor executor;
  Context context;
  context.executor = &executor;

  Tensor out = torch::stable::empty_like(q);
  Tensor lse = empty_lse(q);
  AttentionForwardOutputs outputs;
  outputs.out = view_of(out, "out");
  outputs.lse = view_of(lse, "lse");
  saccade::attention_forward(context, inputs, options, outputs);
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor> attention_backward(const Tensor& q,
                                                      const Tensor& k,
                                                      const Tensor& v,
                                                      const Tensor& out,
                                                      const Tensor& lse,
                                                      const Tensor& dout,
                                                      const std::optional<Tensor>& dlse,
                                                      const std::optional<Tensor>& tiles,
                                                      const std::optional<Tensor>& q_lens,
                                                      const std::optional<Tensor>& k_lens,
                                                      std::optional<double> scale,
                                                      std::int64_t block_q,
                                                      std::int64_t block_k) {
  AttentionBackwardInputs inputs{.q = view_of(q, "q"),
                                 .k = view_of(k, "k"),
                                 .v = view_of(v, "v"),
                                 .tiles = {},
                                 .q_lens = view_of(q_lens, "q_lens"),
                                 .k_lens = view_of(k_lens, "k_lens"),
                                 .out = view_of(out, "out"),
                                 .lse = view_of(lse, "lse"),
                                 .dout = view_of(dout, "dout"),
                                 .dlse = view_of(dlse, "dlse")};
  const TileGrid grid = grid_of(inputs.q, inputs.k, block_q, block_k);
  inputs.tiles = mask_of(tiles, grid);
  const AttentionBackwardOptions options{
      .scale = scale, .block_q = grid.block_q, .block_k = grid.block_k};

  TorchExecutor executor;
  Context context;
  context.executor = &executor;

  Tensor dq = torch::stable::empty_like(q);
  Tensor dk = torch::stable::empty_like(k);
  Tensor dv = torch::stable::empty_like(v);
  const AttentionBackwardOutputs outputs{
      .dq = view_of(dq, "dq"), .dk = view_of(dk, "dk"), .dv = view_of(dv, "dv")};
  saccade::attention_backward(context, inputs, options, outputs);
  return {dq, dk, dv};
}

}  // namespace saccade::python

#include "ops.h"
#include "tensor_views.h"
#include "torch_executor.h"

#include <saccade/error.h>
#include <saccade/sparse_linear.h>

#include <fmt/format.h>
#include <torch/csrc/stable/ops.h>

#include <array>

namespace saccade::python {
namespace {

FeatureMap feature_map_of(const std::string& name) {
  for (const FeatureMap map :
       {FeatureMap::softmax, FeatureMap::elu_plus_one, FeatureMap::relu, FeatureMap::hedgehog}) {
    if (name_of(map) == name) return map;
  }
  throw InvalidArgument(
      fmt::format("feature_map must be softmax, elu_plus_one, relu or hedgehog, got '{}'", name));
}

LinearOptions options_of(const std::string& feature_map, double epsilon) {
  LinearOptions options;
  options.feature_map = feature_map_of(feature_map);
  options.epsilon = epsilon;
  return options;
}

// Gradients of q, k, v and the weights; a weight that is absent has one without elements.
struct Gradients {
  Gradients(const Tensor& q,
            const Tensor& k,
            const Tensor& v,
            const std::optional<Tensor>& q_weight,
            const std::optional<Tensor>& k_weight)
      : dq(torch::stable::empty_like(q)),
        dk(torch::stable::empty_like(k)),
        dv(torch::stable::empty_like(v)),
        dq_weight(empty_like_weight(q_weight)),
        dk_weight(empty_like_weight(k_weight)) {}

  static Tensor empty_like_weight(const std::optional<Tensor>& weight) {
    constexpr std::array<std::int64_t, 1> kNothing{0};
    return weight
               ? torch::stable::empty_like(*weight)
               : torch::stable::empty({kNothing.data(), 1}, torch::headeronly::ScalarType::Float);
  }

  LinearGradients views() const {
    LinearGradients views{
        .dq = view_of(dq, "dq"), .dk = view_of(dk, "dk"), .dv = view_of(dv, "dv")};
    if (dq_weight.numel() > 0) views.dq_weight = view_of(dq_weight, "dq_weight");
    if (dk_weight.numel() > 0) views.dk_weight = view_of(dk_weight, "dk_weight");
    return views;
  }

  LinearGradientTensors tensors() const { return {dq, dk, dv, dq_weight, dk_weight}; }

  Tensor dq, dk, dv, dq_weight, dk_weight;
};

}  // namespace

Tensor linear_forward(const Tensor& q,
                      const Tensor& k,
                      const Tensor& v,
                      const std::optional<Tensor>& tiles,
                      const std::optional<Tensor>& q_lens,
                      const std::optional<Tensor>& k_lens,
                      const std::optional<Tensor>& q_weight,
                      const std::optional<Tensor>& k_weight,
                      const std::string& feature_map,
                      double epsilon,
                      std::int64_t block_q,
                      std::int64_t block_k) {
  LinearInputs inputs{.q = view_of(q, "q"),
                      .k = view_of(k, "k"),
                      .v = view_of(v, "v"),
                      .q_lens = view_of(q_lens, "q_lens"),
                      .k_lens = view_of(k_lens, "k_lens"),
                      .q_weight = view_of(q_weight, "q_weight"),
                      .k_weight = view_of(k_weight, "k_weight")};
  inputs.tiles = mask_of(tiles, grid_of(inputs.q, inputs.k, block_q, block_k));
  TorchExecutor executor;
  const Context context{.executor = &executor, .workspace = {}, .backend = {}};
  Tensor out = torch::stable::empty_like(q);
  saccade::linear_forward(context, inputs, options_of(feature_map, epsilon), view_of(out, "out"));
  return out;
}

LinearGradientTensors linear_backward(const Tensor& q,
                                      const Tensor& k,
                                      const Tensor& v,
                                      const Tensor& out,
                                      const Tensor& dout,
                                      const std::optional<Tensor>& tiles,
                                      const std::optional<Tensor>& q_lens,
                                      const std::optional<Tensor>& k_lens,
                                      const std::optional<Tensor>& q_weight,
                                      const std::optional<Tensor>& k_weight,
                                      const std::string& feature_map,
                                      double epsilon,
                                      std::int64_t block_q,
                                      std::int64_t block_k) {
  LinearBackwardInputs inputs{.forward = {.q = view_of(q, "q"),
                                          .k = view_of(k, "k"),
                                          .v = view_of(v, "v"),
                                          .q_lens = view_of(q_lens, "q_lens"),
                                          .k_lens = view_of(k_lens, "k_lens"),
                                          .q_weight = view_of(q_weight, "q_weight"),
                                          .k_weight = view_of(k_weight, "k_weight")},
                              .out = view_of(out, "out"),
                              .dout = view_of(dout, "dout")};
  inputs.forward.tiles =
      mask_of(tiles, grid_of(inputs.forward.q, inputs.forward.k, block_q, block_k));
  TorchExecutor executor;
  const Context context{.executor = &executor, .workspace = {}, .backend = {}};
  const Gradients gradients(q, k, v, q_weight, k_weight);
  saccade::linear_backward(context, inputs, options_of(feature_map, epsilon), gradients.views());
  return gradients.tensors();
}

std::tuple<Tensor, Tensor, Tensor> sparse_linear_forward(const Tensor& q,
                                                         const Tensor& k,
                                                         const Tensor& v,
                                                         const Tensor& critical,
                                                         const std::optional<Tensor>& marginal,
                                                         const std::optional<Tensor>& q_lens,
                                                         const std::optional<Tensor>& k_lens,
                                                         const std::optional<Tensor>& q_weight,
                                                         const std::optional<Tensor>& k_weight,
                                                         std::optional<double> scale,
                                                         const std::string& feature_map,
                                                         double epsilon,
                                                         std::int64_t block_q,
                                                         std::int64_t block_k) {
  SparseLinearInputs inputs{.q = view_of(q, "q"),
                            .k = view_of(k, "k"),
                            .v = view_of(v, "v"),
                            .q_lens = view_of(q_lens, "q_lens"),
                            .k_lens = view_of(k_lens, "k_lens"),
                            .q_weight = view_of(q_weight, "q_weight"),
                            .k_weight = view_of(k_weight, "k_weight")};
  const TileGrid grid = grid_of(inputs.q, inputs.k, block_q, block_k);
  inputs.critical = mask_of(critical, grid);
  inputs.marginal = mask_of(marginal, grid);
  TorchExecutor executor;
  const Context context{.executor = &executor, .workspace = {}, .backend = {}};
  Tensor out = torch::stable::empty_like(q);
  Tensor lse = empty_lse(q);
  Tensor linear_out = torch::stable::empty_like(q);
  saccade::sparse_linear_forward(context, inputs,
                                 {.scale = scale, .linear = options_of(feature_map, epsilon)},
                                 {.out = view_of(out, "out"),
                                  .lse = view_of(lse, "lse"),
                                  .linear_out = view_of(linear_out, "linear_out")});
  return {out, lse, linear_out};
}

LinearGradientTensors sparse_linear_backward(const Tensor& q,
                                             const Tensor& k,
                                             const Tensor& v,
                                             const Tensor& out,
                                             const Tensor& lse,
                                             const Tensor& linear_out,
                                             const Tensor& dout,
                                             const std::optional<Tensor>& dlse,
                                             const Tensor& dlinear_out,
                                             const Tensor& critical,
                                             const std::optional<Tensor>& marginal,
                                             const std::optional<Tensor>& q_lens,
                                             const std::optional<Tensor>& k_lens,
                                             const std::optional<Tensor>& q_weight,
                                             const std::optional<Tensor>& k_weight,
                                             std::optional<double> scale,
                                             const std::string& feature_map,
                                             double epsilon,
                                             std::int64_t block_q,
                                             std::int64_t block_k) {
  SparseLinearBackwardInputs inputs{.forward = {.q = view_of(q, "q"),
                                                .k = view_of(k, "k"),
                                                .v = view_of(v, "v"),
                                                .q_lens = view_of(q_lens, "q_lens"),
                                                .k_lens = view_of(k_lens, "k_lens"),
                                                .q_weight = view_of(q_weight, "q_weight"),
                                                .k_weight = view_of(k_weight, "k_weight")},
                                    .out = view_of(out, "out"),
                                    .lse = view_of(lse, "lse"),
                                    .linear_out = view_of(linear_out, "linear_out"),
                                    .dout = view_of(dout, "dout"),
                                    .dlse = view_of(dlse, "dlse"),
                                    .dlinear_out = view_of(dlinear_out, "dlinear_out")};
  const TileGrid grid = grid_of(inputs.forward.q, inputs.forward.k, block_q, block_k);
  inputs.forward.critical = mask_of(critical, grid);
  inputs.forward.marginal = mask_of(marginal, grid);
  TorchExecutor executor;
  const Context context{.executor = &executor, .workspace = {}, .backend = {}};
  const Gradients gradients(q, k, v, q_weight, k_weight);
  saccade::sparse_linear_backward(context, inputs,
                                  {.scale = scale, .linear = options_of(feature_map, epsilon)},
                                  gradients.views());
  return gradients.tensors();
}

}  // namespace saccade::python

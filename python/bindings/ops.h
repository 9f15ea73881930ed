#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

// The operators of torch.ops.saccade, as plain functions on host tensors; library.cc gives them
// their schemas. Results are new tensors with the shapes and strides of the tensors that they
// belong to. All throw saccade::InvalidArgument and saccade::Unsupported.

namespace saccade::python {

using torch::stable::Tensor;

// `tiles` are the words of a TileMask: int64 [batch, q_heads, q_tiles, ceil(k_tiles / 64)].
// A null scale is 1 / sqrt(head_dim).
std::tuple<Tensor, Tensor> attention_forward(const Tensor& q,
                                             const Tensor& k,
                                             const Tensor& v,
                                             const std::optional<Tensor>& tiles,
                                             const std::optional<Tensor>& q_lens,
                                             const std::optional<Tensor>& k_lens,
                                             std::optional<double> scale,
                                             std::int64_t block_q,
                                             std::int64_t block_k);

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
                                                      std::int64_t block_k);

std::tuple<Tensor, Tensor> merge_partials(const std::vector<Tensor>& outs,
                                          const std::vector<Tensor>& lses);

std::tuple<std::vector<Tensor>, std::vector<Tensor>> merge_partials_backward(
    const std::vector<Tensor>& outs,
    const std::vector<Tensor>& lses,
    const Tensor& out,
    const Tensor& lse,
    const Tensor& dout,
    const std::optional<Tensor>& dlse);

// JSON: version, commit, backends, cpu_targets.
std::string info();

}  // namespace saccade::python

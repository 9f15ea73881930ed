#pragma once

#include <saccade/attention.h>
#include <saccade/linear_attention.h>

// SLA's two branches in one call (arXiv 2509.24006 Algorithms 1 and 2): softmax attention over the
// critical tiles, normalised over them alone, and linear attention over the marginal ones. Their
// sum, out + Proj(linear_out), is left to the caller, who has the learnt Proj.

namespace saccade {

struct SparseLinearInputs {
  TensorView q{}, k{}, v{};           // as in attention.h
  TileMaskView critical{};            // for softmax attention; absent = every tile
  TileMaskView marginal{};            // for linear attention; absent = every query meets every key
  TensorView q_lens{}, k_lens{};      // i32 [batch]; absent = full length
  TensorView q_weight{}, k_weight{};  // of hedgehog: see linear_attention.h
};

struct SparseLinearOptions {
  std::optional<double> scale{};  // of the logits; absent = 1 / sqrt(head_dim)
  LinearOptions linear{};
};

struct SparseLinearOutputs {
  TensorView out{};         // of softmax attention
  TensorView lse{};         // its log-sum-exp, natural log; optional
  TensorView linear_out{};  // of linear attention, shape and dtype of out
};

// Bytes of workspace that the call needs. Throws like sparse_linear_forward.
std::size_t sparse_linear_forward_workspace_size(const Context& context,
                                                 const SparseLinearInputs& inputs,
                                                 const SparseLinearOptions& options);

// What attention_forward and linear_forward would write. Same bits for any number of threads.
// Nothing is written before the checks of both have passed. Throws InvalidArgument, or Unsupported
// with the reason.
void sparse_linear_forward(const Context& context,
                           const SparseLinearInputs& inputs,
                           const SparseLinearOptions& options,
                           const SparseLinearOutputs& outputs);

struct SparseLinearBackwardInputs {
  SparseLinearInputs forward{};              // what the forward call was given
  TensorView out{}, lse{}, linear_out{};     // what it wrote
  TensorView dout{}, dlse{}, dlinear_out{};  // their gradients; dlse absent = zero
};

// Bytes of workspace that the call needs. Throws like sparse_linear_backward.
std::size_t sparse_linear_backward_workspace_size(const Context& context,
                                                  const SparseLinearBackwardInputs& inputs,
                                                  const SparseLinearOptions& options);

// The sums of both branches' gradients: of attention_backward, to which linear_backward adds. Same
// bits for any number of threads. Throws InvalidArgument, or Unsupported with the reason.
void sparse_linear_backward(const Context& context,
                            const SparseLinearBackwardInputs& inputs,
                            const SparseLinearOptions& options,
                            const LinearGradients& gradients);

}  // namespace saccade

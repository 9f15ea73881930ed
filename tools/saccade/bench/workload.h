#pragma once

#include "host_tensor.h"

#include <saccade/attention.h>
#include <saccade/context.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

namespace saccade::cli {

// Random tensors of one shape, and room for their gradients; shared by workloads that are compared,
// so that all of them read the same memory.
struct Operands {
  Operands(DType dtype, const TileGrid& grid, int head_dim);

  HostTensor make_tensor(std::int64_t length) const;  // [batch, heads, length, head_dim]

  DType dtype;
  TileGrid grid;
  int head_dim;
  HostTensor q, k, v, dout;
  HostTensor dq, dk, dv;
};

enum class Pass { forward, backward };

std::string_view name_of(Pass pass);

// Attention that is dense or over tiles drawn at random. The masked forward pass writes marks, as
// every step of a skipping method does. All memory is allocated beforehand.
class Workload {
 public:
  // `sparsity` is the inactive share of the tiles, in [0, 1), rounded to whole tiles with at least
  // one active; absent = dense, without a mask. `operands` must outlive the workload.
  Workload(const Context& context, const Operands& operands, std::optional<double> sparsity);

  std::optional<double> sparsity() const;  // after rounding

  // Counts the active tiles only: 4 operations per logit and element of head_dim forward, 10
  // backward (two and five products).
  double flops(Pass pass) const;

  // The backward pass needs the results of a forward pass.
  void run(Pass pass) const;

 private:
  AttentionInputs forward_inputs() const;
  AttentionBackwardInputs backward_inputs() const;
  AttentionForwardOptions forward_options() const;
  AttentionBackwardOptions backward_options() const;

  const Operands& operands_;
  HostTensor out_, lse_;
  std::optional<TileMask> tiles_;
  TileMask marks_;
  Context context_;
};

}  // namespace saccade::cli

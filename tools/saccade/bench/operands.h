#pragma once

#include "host_tensor.h"

#include <saccade/tile_grid.h>

#include <cstdint>

namespace saccade::cli {

// Random tensors of one shape, and room for their gradients; shared by workloads that are compared,
// so that all of them read the same memory.
struct Operands {
  Operands(DType dtype, const TileGrid& grid, int head_dim);

  HostTensor make_tensor(std::int64_t length) const;  // [batch, heads, length, head_dim]

  // batch * heads * q_len * k_len
  double logits() const;

  // Of as many tensors as these.
  double bytes(int tensors) const;

  DType dtype;
  TileGrid grid;
  int head_dim;
  HostTensor q, k, v, dout;
  HostTensor dq, dk, dv;
};

}  // namespace saccade::cli

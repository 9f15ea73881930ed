#pragma once

#include <saccade/routing.h>

#include <algorithm>
#include <cstdint>

// What a backend is handed for pool_tiles and select_tiles: checked inputs, resolved defaults.

namespace saccade {

struct PoolProblem {
  TensorView x, lens, means;
  int block = 0;

  std::int64_t valid_tokens(std::int64_t batch) const {
    return lens ? static_cast<const std::int32_t*>(lens.data)[batch * lens.strides[0]] : x.shape[2];
  }
  std::int64_t tiles() const { return means.shape[2]; }
  // Valid tokens of one tile.
  std::int64_t count(std::int64_t batch, std::int64_t tile) const {
    return std::clamp<std::int64_t>(valid_tokens(batch) - tile * block, 0, block);
  }
};

struct SelectProblem {
  TileGrid grid;
  TensorView q, k, q_lens, k_lens;
  TileMaskView always;
  double scale = 0;
  SelectTilesOptions options;
  TileClasses classes;

  std::int64_t key_head(std::int64_t head) const { return head / (grid.heads / k.shape[1]); }
  std::int64_t head_dim() const { return q.shape[3]; }

  // Tiles that hold at least one valid query or key.
  std::int64_t valid_q_tiles(std::int64_t batch) const {
    return tiles(q_lens, batch, grid.q_len, grid.block_q);
  }
  std::int64_t valid_k_tiles(std::int64_t batch) const {
    return tiles(k_lens, batch, grid.k_len, grid.block_k);
  }

 private:
  static std::int64_t tiles(const TensorView& lens,
                            std::int64_t batch,
                            std::int64_t length,
                            int block) {
    if (lens) length = static_cast<const std::int32_t*>(lens.data)[batch * lens.strides[0]];
    return (length + block - 1) / block;
  }
};

}  // namespace saccade

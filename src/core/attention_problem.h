#pragma once

#include <saccade/attention.h>

#include <cmath>
#include <cstdint>
#include <optional>

// What a backend is handed: a call whose inputs have been checked and whose defaults are resolved.

namespace saccade {

struct AttentionProblem {
  TensorView q, k, v;
  TensorView q_lens, k_lens;  // i32 [batch] or absent
  TileGrid grid;
  const std::uint64_t* tiles = nullptr;  // mask words of `grid`; null = dense
  std::int64_t k_heads = 0;
  int head_dim = 0;
  double scale = 0;

  std::int64_t heads_per_key_head() const { return grid.heads / k_heads; }
  std::int64_t key_head(std::int64_t head) const { return head / heads_per_key_head(); }

  std::int64_t valid_queries(std::int64_t batch) const {
    return q_lens ? length(q_lens, batch) : grid.q_len;
  }
  std::int64_t valid_keys(std::int64_t batch) const {
    return k_lens ? length(k_lens, batch) : grid.k_len;
  }
  // Tiles that hold at least one valid query or key.
  std::int64_t valid_q_tiles(std::int64_t batch) const {
    return (valid_queries(batch) + grid.block_q - 1) / grid.block_q;
  }
  std::int64_t valid_k_tiles(std::int64_t batch) const {
    return (valid_keys(batch) + grid.block_k - 1) / grid.block_k;
  }

  // Mask words of a row of tiles; null = every tile of it is active.
  const std::uint64_t* tile_row(std::int64_t batch, std::int64_t head, std::int64_t q_tile) const {
    if (tiles == nullptr) return nullptr;
    return tiles + ((batch * grid.heads + head) * grid.q_tiles() + q_tile) * grid.words_per_row();
  }

 private:
  static std::int64_t length(const TensorView& lens, std::int64_t batch) {
    return static_cast<const std::int32_t*>(lens.data)[batch * lens.strides[0]];
  }
};

struct ForwardProblem : AttentionProblem {
  TensorView ref;
  TensorView priorities;
  std::optional<double> threshold;
  Measure measure = Measure::largest_weight;
  bool is_partial = false;
  bool skips_values = false;
  VisitPlan plan;
  AttentionForwardOutputs outputs;

  // Lists the tiles of a row in visit order, as list_row does.
  std::int64_t list_tiles(std::int64_t batch,
                          std::int64_t head,
                          std::int64_t q_tile,
                          std::int32_t* listed) const {
    const std::int64_t row = (batch * grid.heads + head) * grid.q_tiles() + q_tile;
    const auto* first = static_cast<const float*>(priorities.data);
    return list_row(grid, tile_row(batch, head, q_tile), q_tile, valid_k_tiles(batch), plan.order,
                    priorities ? first + row * grid.k_tiles() : nullptr, listed);
  }

  bool decides() const { return outputs.marks || outputs.scores; }
  bool measures_mass() const { return decides() && measure != Measure::largest_weight; }
  // Whether a tile is judged by what its row visited before it.
  bool has_running_reference() const {
    return leaves_out_values() || (decides() && !measures_mass() && !ref);
  }
  // A threshold of -inf leaves nothing out.
  bool leaves_out_values() const { return skips_values && std::isfinite(*threshold); }
};

struct BackwardProblem : AttentionProblem {
  TensorView out, lse, dout, dlse;
  AttentionBackwardOutputs outputs;
};

}  // namespace saccade

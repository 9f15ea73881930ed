#pragma once

#include "support/tensor.h"

#include <saccade/routing.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace saccade::test {

// i32 [values.size()]
Tensor lengths(const std::vector<std::int64_t>& values);

// A call of select_tiles that owns its data. Change any field before the call.
struct Selection {
  Selection(const TileGrid& tile_grid, std::int64_t k_heads, std::int64_t head_dim);

  // One row of tiles whose logits, with scale 1, are these.
  explicit Selection(const std::vector<double>& logits);

  SelectTilesInputs inputs() const;

  // Every bit of the masks starts set: all of them have to be written, padding included.
  Selection& run(const Context& context);

  // "c", "m" or "n" for each key tile of a row.
  std::string classes(std::int64_t row = 0) const;

  TileGrid grid;
  Tensor q, k;            // means
  Tensor q_lens, k_lens;  // absent at first
  std::optional<TileMask> always;
  SelectTilesOptions options;
  TileMask critical, marginal;
};

}  // namespace saccade::test

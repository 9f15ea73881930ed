#pragma once

#include <saccade/context.h>
#include <saccade/tensor_view.h>
#include <saccade/tile_mask.h>

#include <cstddef>
#include <cstdint>
#include <optional>

// SLA's routing (arXiv 2509.24006 eq. 2 and 3): which tiles are critical, marginal, negligible.
// Tokens are averaged tile by tile, and the attention weights between the averages rank the key
// tiles of every row of tiles. No gradient flows through it.

namespace saccade {

struct PoolTilesInputs {
  TensorView x{};     // [batch, heads, len, head_dim], any strides with unit stride in head_dim
  TensorView lens{};  // i32 [batch], each in [0, len]; absent = full length
};

struct PoolTilesOptions {
  int block = 64;  // tokens of a tile: 64 or 128
};

// means: f32 (f64 for f64 x), densely packed [batch, heads, ceil(len / block), head_dim]; the mean
// of each tile's valid rows, the last, partial tile by its true count. A tile without a valid row
// gets 0; rows beyond `lens` are never read. Sums are f32 or better. NaN propagates into the mean
// of its own tile and feature. Throws InvalidArgument, or Unsupported with the reason.
void pool_tiles(const Context& context,
                const PoolTilesInputs& inputs,
                const PoolTilesOptions& options,
                const TensorView& means);

// How many of the tiles of a row: a share of them, rounded down, or a count.
class TileShare {
 public:
  // Of the tiles that hold a valid key. Throws InvalidArgument unless 0 <= ratio <= 1.
  static TileShare of_ratio(double ratio);
  // At most as many as there are. Throws InvalidArgument unless 0 <= count.
  static TileShare of_count(std::int64_t count);

  std::int64_t of(std::int64_t tiles) const;

 private:
  TileShare(double ratio, std::int64_t count) : ratio_(ratio), count_(count) {}

  double ratio_;
  std::int64_t count_;  // negative = the ratio decides
};

struct SelectTilesInputs {
  TileGrid grid{};  // of the attention that is routed

  // What pool_tiles made of q and k: f32 or f64 [batch, heads, q_tiles, head_dim] and
  // [batch, k_heads, k_tiles, head_dim], unit stride in head_dim; heads is a multiple of k_heads.
  TensorView q{}, k{};
  TensorView q_lens{}, k_lens{};  // i32 [batch]; absent = full length

  // Tiles that are critical whatever their rank (protected tokens); absent = none.
  TileMaskView always{};
};

struct SelectTilesOptions {
  std::optional<double> scale{};  // of the logits; absent = 1 / sqrt(head_dim); any finite value

  // The highest ranks of a row: this many, at least one, tiles of `always` counted in.
  TileShare critical = TileShare::of_ratio(0.05);
  // And further ones until their softmax weights sum up to this share; 0 = no further ones. With
  // critical = of_count(1) this is top-p selection, with more the union of top-k and top-p.
  double critical_mass = 0;  // in [0, 1]
  // The lowest ranks of a row. Where both overlap a tile is critical.
  TileShare negligible = TileShare::of_ratio(0.10);
};

// Masks of the inputs' grid, every word of which is written; they share no memory with each other
// or with `always`. A tile in neither is negligible.
// Negligible are also all tiles without a valid key, and all of a row without a valid query.
struct TileClasses {
  TileMaskView critical{};
  TileMaskView marginal{};
};

// Bytes of workspace that the call needs: O(k_tiles * head_dim) per worker. Throws like
// select_tiles.
std::size_t select_tiles_workspace_size(const Context& context,
                                        const SelectTilesInputs& inputs,
                                        const SelectTilesOptions& options);

// Ranks the key tiles of every row of tiles by scale * q k^T, the highest first, equal ones by
// index. NaN counts as +infinity: a tile that nothing is known of is computed. Subtracting the mean
// key, as the paper does, moves all logits of a row alike, and so neither ranks nor weights.
// Logits are summed up in double, dimension by dimension, and every backend takes the same
// decisions. Throws InvalidArgument, or Unsupported with the reason.
void select_tiles(const Context& context,
                  const SelectTilesInputs& inputs,
                  const SelectTilesOptions& options,
                  const TileClasses& classes);

}  // namespace saccade

#pragma once

#include <saccade/tensor_view.h>
#include <saccade/tile_grid.h>

#include <cstdint>
#include <span>
#include <vector>

namespace saccade {

// A half-open range of tokens of one axis.
struct TokenRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  friend bool operator==(const TokenRange&, const TokenRange&) = default;
};

// A half-open range of tiles of one row.
struct TileRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  friend bool operator==(const TileRange&, const TileRange&) = default;
};

// A borrowed mask: one bit per tile, set = active (to be computed). This is the complement of the
// Skip-Mask of LiteAttention (arXiv 2511.11062, Algorithm 2).
// Layout: uint64 [batch, heads, q_tiles, words_per_row], densely packed; bit t % 64 of word t / 64,
// counted from the least significant, is tile t of the row; padding bits are zero.
// A default-constructed view means "absent".
struct TileMaskView {
  TileGrid grid{};
  std::uint64_t* words = nullptr;
  Device device{};

  explicit operator bool() const { return words != nullptr; }

  std::int64_t row_index(std::int64_t batch, std::int64_t head, std::int64_t q_tile) const {
    return (batch * grid.heads + head) * grid.q_tiles() + q_tile;
  }
  std::uint64_t* row(std::int64_t row_index) const {
    return words + row_index * grid.words_per_row();
  }
  bool test(std::int64_t row_index, std::int64_t k_tile) const {
    return (row(row_index)[k_tile / 64] >> (k_tile % 64)) & 1;
  }
};

// Number of active tiles of a host mask.
std::int64_t count_active(const TileMaskView& mask);

// A mask that owns its bits, in host memory. Set operations need equal grids and throw
// InvalidArgument otherwise; padding bits stay zero through all of them.
class TileMask {
 public:
  explicit TileMask(const TileGrid& grid);  // nothing active
  static TileMask full(const TileGrid& grid);
  // `active` is [batch, heads, q_tiles, k_tiles], row-major, nonzero = active.
  static TileMask from_dense(const TileGrid& grid, std::span<const std::uint8_t> active);

  const TileGrid& grid() const { return grid_; }
  TileMaskView view() const;  // valid while this mask lives and is not assigned to

  bool test(std::int64_t batch, std::int64_t head, std::int64_t q_tile, std::int64_t k_tile) const;
  void set(std::int64_t batch,
           std::int64_t head,
           std::int64_t q_tile,
           std::int64_t k_tile,
           bool active = true);

  TileMask& operator|=(const TileMask& other);
  TileMask& operator&=(const TileMask& other);
  TileMask& operator-=(const TileMask& other);  // this and not other
  TileMask operator~() const;
  friend bool operator==(const TileMask&, const TileMask&) = default;

  // The active tiles of one row as ascending, disjoint, non-adjacent ranges, and back. Setting
  // replaces the row; ranges may overlap and come in any order.
  std::vector<TileRange> ranges(std::int64_t row_index) const;
  void set_ranges(std::int64_t row_index, std::span<const TileRange> ranges);

  // Activates every tile that holds a token of a range: whole rows of tiles for query ranges, whole
  // columns for key ranges (ranges are rounded outward to tiles).
  void protect(std::span<const TokenRange> query_ranges, std::span<const TokenRange> key_ranges);

  std::int64_t count() const;
  double sparsity() const;  // inactive share of all tiles
  std::vector<std::uint8_t> to_dense() const;

 private:
  TileGrid grid_;
  std::vector<std::uint64_t> words_;
};

}  // namespace saccade

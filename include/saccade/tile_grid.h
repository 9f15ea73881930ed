#pragma once

#include <cstdint>

namespace saccade {

// How one attention problem is cut into tiles: a tile is a block_q x block_k block of the logits.
// The last tile of a row or column may be partial.
struct TileGrid {
  std::int64_t batch = 0;
  std::int64_t heads = 0;  // query heads
  std::int64_t q_len = 0;
  std::int64_t k_len = 0;
  int block_q = 128;  // 64 or 128
  int block_k = 64;   // 64 or 128

  std::int64_t q_tiles() const { return (q_len + block_q - 1) / block_q; }
  std::int64_t k_tiles() const { return (k_len + block_k - 1) / block_k; }
  std::int64_t rows() const { return batch * heads * q_tiles(); }
  std::int64_t tiles() const { return rows() * k_tiles(); }

  // 64-bit words that hold the bits of one row of tiles.
  std::int64_t words_per_row() const { return (k_tiles() + 63) / 64; }
  std::int64_t words() const { return rows() * words_per_row(); }

  // The bits of word `word` of a row that stand for tiles; the others are padding and stay zero.
  std::uint64_t valid_bits(std::int64_t word) const {
    const std::int64_t tiles_left = k_tiles() - word * 64;
    return tiles_left >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << tiles_left) - 1;
  }

  friend bool operator==(const TileGrid&, const TileGrid&) = default;
};

// Throws InvalidArgument unless every extent is at least 1, lengths fit into 31 bits, the number of
// tiles fits into 63, and both block sizes are 64 or 128.
void validate(const TileGrid& grid);

}  // namespace saccade

#pragma once

#include <saccade/tile_mask.h>

#include <algorithm>
#include <cstdint>
#include <span>

// The decision of update_mask for one word of 64 tiles, shared by all backends.

namespace saccade {

// Tiles [64 * word, 64 * word + 64) that hold a token of a range.
inline std::uint64_t protected_bits(std::span<const TokenRange> ranges,
                                    std::int64_t word,
                                    int block) {
  std::uint64_t bits = 0;
  for (const TokenRange& range : ranges) {
    if (range.begin >= range.end) continue;
    const std::int64_t begin = std::max<std::int64_t>(range.begin / block - word * 64, 0);
    const std::int64_t end =
        std::min<std::int64_t>((range.end + block - 1) / block - word * 64, 64);
    for (std::int64_t tile = begin; tile < end; ++tile) bits |= std::uint64_t{1} << tile;
  }
  return bits;
}

// A computed tile stays active unless it was marked; one that was not computed keeps its state.
inline std::uint64_t next_word(std::uint64_t mask,
                               std::uint64_t computed,
                               std::uint64_t marked,
                               std::uint64_t protected_tiles) {
  return (mask & ~computed) | (computed & ~marked) | protected_tiles;
}

}  // namespace saccade

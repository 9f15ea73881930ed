#include "core/element.h"
#include "core/reference/reference.h"

#include <limits>

namespace saccade::reference {
namespace {

// True if a token of a range lies in tile `tile`.
bool touches(std::span<const TokenRange> ranges, std::int64_t tile, int block) {
  for (const TokenRange& range : ranges) {
    if (range.begin < range.end && range.begin < (tile + 1) * block && range.end > tile * block) {
      return true;
    }
  }
  return false;
}

bool is_marked(const UpdateMaskInputs& inputs,
               const UpdateMaskOptions& options,
               std::int64_t row,
               std::int64_t k_tile) {
  if (inputs.marks) return inputs.marks.test(row, k_tile);
  const double score = load_element(inputs.scores, row * inputs.mask.grid.k_tiles() + k_tile);
  return *options.threshold > -std::numeric_limits<double>::infinity() &&
         score <= *options.threshold;
}

}  // namespace

void update_mask(const UpdateMaskInputs& inputs,
                 const UpdateMaskOptions& options,
                 const TileMaskView& next) {
  const TileGrid& grid = next.grid;
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    const bool protected_row =
        touches(options.protected_queries, row % grid.q_tiles(), grid.block_q);
    for (std::int64_t tile = 0; tile < grid.k_tiles(); ++tile) {
      const bool computed = !inputs.computed || inputs.computed.test(row, tile);
      bool active = computed ? !is_marked(inputs, options, row, tile) : inputs.mask.test(row, tile);
      active |= protected_row || touches(options.protected_keys, tile, grid.block_k);
      const std::uint64_t bit = std::uint64_t{1} << (tile % 64);
      std::uint64_t& word = next.row(row)[tile / 64];
      word = active ? word | bit : word & ~bit;
    }
    next.row(row)[grid.words_per_row() - 1] &= grid.valid_bits(grid.words_per_row() - 1);
  }
}

}  // namespace saccade::reference

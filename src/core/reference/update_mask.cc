#include "core/element.h"
#include "core/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace saccade::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// True if a token of a range lies in tile `tile`.
bool touches(std::span<const TokenRange> ranges, std::int64_t tile, int block) {
  return std::ranges::any_of(ranges, [&](const TokenRange& range) {
    return range.begin < range.end && range.begin < (tile + 1) * block && range.end > tile * block;
  });
}

// True if one range holds every token of tile `tile`.
bool covers(std::span<const TokenRange> ranges, std::int64_t tile, int block, std::int64_t length) {
  return std::ranges::any_of(ranges, [&](const TokenRange& range) {
    return range.begin <= tile * block && range.end >= std::min((tile + 1) * block, length);
  });
}

void set_bit(const TileMaskView& mask, std::int64_t row, std::int64_t tile, bool active) {
  const std::uint64_t bit = std::uint64_t{1} << (tile % 64);
  std::uint64_t& word = mask.row(row)[tile / 64];
  word = active ? word | bit : word & ~bit;
}

void clear_padding(const TileMaskView& mask, std::int64_t row) {
  const std::int64_t last = mask.grid.words_per_row() - 1;
  mask.row(row)[last] &= mask.grid.valid_bits(last);
}

// One tile of a row, and what is decided about it.
struct Tile {
  std::int64_t k_tile;
  double bound;  // on the softmax mass of a row in it
};

class Row {
 public:
  Row(const UpdateMaskInputs& inputs, const UpdateMaskOptions& options, std::int64_t row)
      : inputs_(inputs), options_(options), grid_(inputs.mask.grid), row_(row) {}

  bool is_computed(std::int64_t k_tile) const {
    return !inputs_.computed || inputs_.computed.test(row_, k_tile);
  }

  bool is_protected(std::int64_t k_tile) const {
    return touches(options_.protected_queries, row_ % grid_.q_tiles(), grid_.block_q) ||
           touches(options_.protected_keys, k_tile, grid_.block_k);
  }

  bool is_marked(std::int64_t k_tile) const {
    if (inputs_.marks) return inputs_.marks.test(row_, k_tile);
    const std::int64_t head = row_ / grid_.q_tiles() % grid_.heads;
    const double threshold =
        options_.threshold ? *options_.threshold : options_.head_thresholds[head];
    return threshold > -kInfinity && score(k_tile) <= threshold;
  }

  double bound(std::int64_t k_tile) const {
    const std::int64_t batch = row_ / grid_.q_tiles() / grid_.heads;
    const std::int64_t valid = inputs_.k_lens
                                   ? static_cast<const std::int32_t*>(
                                         inputs_.k_lens.data)[batch * inputs_.k_lens.strides[0]]
                                   : grid_.k_len;
    const std::int64_t keys =
        std::clamp<std::int64_t>(valid - k_tile * grid_.block_k, 0, grid_.block_k);
    if (std::isnan(score(k_tile))) return 1;
    const float share = std::exp2(static_cast<float>(score(k_tile)));
    if (options_.measure != Measure::largest_weight) return share;
    return std::min(1.0f, static_cast<float>(keys) * share);
  }

  double probed_mass() const {
    double mass = 0;
    for (std::int64_t tile = 0; tile < grid_.k_tiles(); ++tile) {
      if (is_computed(tile) && !inputs_.mask.test(row_, tile)) mass += bound(tile);
    }
    return mass;
  }

  // Newly marked tiles in the order in which they may go: by powers of two of their bounds.
  std::vector<Tile> candidates() const {
    std::vector<Tile> tiles;
    for (std::int64_t tile = 0; tile < grid_.k_tiles(); ++tile) {
      if (inputs_.mask.test(row_, tile) && is_computed(tile) && !is_protected(tile) &&
          is_marked(tile)) {
        tiles.push_back({tile, bound(tile)});
      }
    }
    std::ranges::stable_sort(tiles, {}, [](const Tile& tile) { return power_of(tile.bound); });
    return tiles;
  }

  // Everything below 2^-62 counts as one power.
  static int power_of(double bound) { return bound > 0 ? std::max(std::ilogb(bound), -63) : -63; }

 private:
  double score(std::int64_t k_tile) const {
    const double score = load_element(inputs_.scores, row_ * grid_.k_tiles() + k_tile);
    if (!inputs_.fall) return score;
    // In f32, as scores are kept.
    const double corrected =
        static_cast<float>(score) + static_cast<float>(load_element(inputs_.fall, row_));
    return corrected > 0 ? 0 : corrected;
  }

  const UpdateMaskInputs& inputs_;
  const UpdateMaskOptions& options_;
  const TileGrid grid_;
  const std::int64_t row_;
};

// The marked tiles of a row that the budget cannot pay; `spent` becomes what it pays for.
std::vector<bool> refused_tiles(const Row& row, double budget, std::int64_t k_tiles, float& spent) {
  std::vector<bool> refused(k_tiles);
  double paid = spent;
  int first_refused = std::numeric_limits<int>::max();  // power of the first tile that did not fit
  for (const Tile& tile : row.candidates()) {
    if (Row::power_of(tile.bound) <= first_refused && paid + tile.bound <= budget) {
      paid += tile.bound;
    } else {
      refused[tile.k_tile] = true;
      first_refused = std::min(first_refused, Row::power_of(tile.bound));
    }
  }
  if (const float rounded = static_cast<float>(paid); rounded < paid) {
    spent = std::nextafter(rounded, std::numeric_limits<float>::infinity());
  } else {
    spent = rounded;
  }
  return refused;
}

}  // namespace

void computed_tiles(const TileMaskView& mask,
                    const ComputedTilesOptions& options,
                    const TileMaskView& computed) {
  const TileGrid& grid = mask.grid;
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    const std::int64_t q_tile = row % grid.q_tiles();
    for (std::int64_t tile = 0; tile < grid.k_tiles(); ++tile) {
      const bool is_probed = options.reprobe_period > 0 &&
                             (q_tile + tile + options.step) % options.reprobe_period == 0;
      const bool is_wanted = options.is_dense || mask.test(row, tile) || is_probed ||
                             touches(options.protected_queries, q_tile, grid.block_q) ||
                             touches(options.protected_keys, tile, grid.block_k);
      const bool is_skipped = covers(options.skipped_queries, q_tile, grid.block_q, grid.q_len) ||
                              covers(options.skipped_keys, tile, grid.block_k, grid.k_len);
      set_bit(computed, row, tile, is_wanted && !is_skipped);
    }
    clear_padding(computed, row);
  }
}

void update_mask(const UpdateMaskInputs& inputs,
                 const UpdateMaskOptions& options,
                 const UpdateMaskOutputs& outputs) {
  const TileGrid& grid = inputs.mask.grid;
  for (std::int64_t index = 0; index < grid.rows(); ++index) {
    const Row row(inputs, options, index);
    if (outputs.probed_mass) {
      static_cast<float*>(outputs.probed_mass.data)[index] = static_cast<float>(row.probed_mass());
    }
    std::vector<bool> refused(grid.k_tiles());
    if (options.mass_budget) {
      refused = refused_tiles(row, *options.mass_budget, grid.k_tiles(),
                              static_cast<float*>(outputs.spent.data)[index]);
    }
    for (std::int64_t tile = 0; tile < grid.k_tiles(); ++tile) {
      const bool stays = row.is_computed(tile) ? !row.is_marked(tile) || refused[tile]
                                               : inputs.mask.test(index, tile);
      set_bit(outputs.next, index, tile, stays || row.is_protected(tile));
    }
    clear_padding(outputs.next, index);
  }
}

}  // namespace saccade::reference

#pragma once

#include <saccade/update_mask.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

// The decisions of computed_tiles and update_mask for one row of tiles, word by word of 64 tiles:
// written once, for all backends that loop over rows.

namespace saccade {

// Tiles [begin, end) of a row that lie in word `word`.
inline std::uint64_t bits_between(std::int64_t begin, std::int64_t end, std::int64_t word) {
  begin = std::clamp<std::int64_t>(begin - word * 64, 0, 64);
  end = std::clamp<std::int64_t>(end - word * 64, 0, 64);
  if (begin >= end) return 0;
  return (~std::uint64_t{0} >> (64 - (end - begin))) << begin;
}

// Tiles of a word that hold a token of a range.
inline std::uint64_t touched_bits(std::span<const TokenRange> ranges,
                                  std::int64_t word,
                                  int block) {
  std::uint64_t bits = 0;
  for (const TokenRange& range : ranges) {
    if (range.begin >= range.end) continue;
    bits |= bits_between(range.begin / block, (range.end + block - 1) / block, word);
  }
  return bits;
}

// Tiles of a word whose tokens all lie in one range.
inline std::uint64_t covered_bits(std::span<const TokenRange> ranges,
                                  std::int64_t word,
                                  int block,
                                  std::int64_t length) {
  std::uint64_t bits = 0;
  for (const TokenRange& range : ranges) {
    const std::int64_t end = range.end == length ? length + block - 1 : range.end;
    bits |= bits_between((range.begin + block - 1) / block, end / block, word);
  }
  return bits;
}

inline bool has_bit(std::uint64_t bits, std::int64_t tile) {
  return (bits >> (tile % 64)) & 1;
}

// The tiles of a word in the stripe of a step.
inline std::uint64_t stripe_bits(std::int64_t period,
                                 std::int64_t step,
                                 std::int64_t q_tile,
                                 std::int64_t word) {
  std::uint64_t bits = 0;
  if (period == 0) return bits;
  const std::int64_t phase = (q_tile + step % period + word * 64) % period;
  for (std::int64_t tile = (period - phase) % period; tile < 64; tile += period) {
    bits |= std::uint64_t{1} << tile;
  }
  return bits;
}

inline void compute_row(const TileMaskView& mask,
                        const ComputedTilesOptions& options,
                        std::int64_t row,
                        const TileMaskView& computed) {
  const TileGrid& grid = mask.grid;
  const std::int64_t q_tile = row % grid.q_tiles();
  const std::int64_t q_word = q_tile / 64;
  const bool is_all =
      options.is_dense ||
      has_bit(touched_bits(options.protected_queries, q_word, grid.block_q), q_tile);
  const bool is_none =
      has_bit(covered_bits(options.skipped_queries, q_word, grid.block_q, grid.q_len), q_tile);
  for (std::int64_t word = 0; word < grid.words_per_row(); ++word) {
    const std::uint64_t wanted =
        is_all ? ~std::uint64_t{0}
               : mask.row(row)[word] |
                     stripe_bits(options.reprobe_period, options.step, q_tile, word) |
                     touched_bits(options.protected_keys, word, grid.block_k);
    const std::uint64_t skipped =
        is_none ? ~std::uint64_t{0}
                : covered_bits(options.skipped_keys, word, grid.block_k, grid.k_len);
    computed.row(row)[word] = wanted & ~skipped & grid.valid_bits(word);
  }
}

// One row of update_mask.
class RowUpdate {
 public:
  RowUpdate(const UpdateMaskInputs& inputs,
            const UpdateMaskOptions& options,
            const UpdateMaskOutputs& outputs,
            std::int64_t row)
      : inputs_(inputs),
        options_(options),
        outputs_(outputs),
        grid_(outputs.next.grid),
        row_(row),
        q_tile_(row % grid_.q_tiles()),
        threshold_(threshold()),
        scores_(static_cast<const float*>(inputs.scores.data) + row * grid_.k_tiles()),
        fall_(inputs.fall ? at_row(inputs.fall) : 0.0f) {}

  void run() {
    if (outputs_.probed_mass) at_row(outputs_.probed_mass) = static_cast<float>(probed_mass());
    if (options_.mass_budget) find_affordable_bounds();
    const bool is_protected =
        has_bit(touched_bits(options_.protected_queries, q_tile_ / 64, grid_.block_q), q_tile_);
    for (std::int64_t word = 0; word < grid_.words_per_row(); ++word) {
      const std::uint64_t protected_tiles =
          is_protected ? ~std::uint64_t{0}
                       : touched_bits(options_.protected_keys, word, grid_.block_k);
      const std::uint64_t mask = this->mask(word);
      const std::uint64_t computed = this->computed(word);
      const std::uint64_t marked = droppable(word, computed & marked_bits(word) & ~protected_tiles);
      outputs_.next.row(row_)[word] =
          ((mask & ~computed) | (computed & ~marked) | protected_tiles) & grid_.valid_bits(word);
    }
    if (options_.mass_budget) at_row(outputs_.spent) = round_up(spent_);
  }

 private:
  // Bounds are told apart by powers of two: bucket b holds those in [2^-b, 2^(1-b)), the last one
  // all that are smaller.
  static constexpr int kBuckets = 64;

  static int bucket_of(float bound) {
    return bound > 0 ? std::min(-std::ilogb(bound), kBuckets - 1) : kBuckets - 1;
  }

  static float round_up(double value) {
    const float rounded = static_cast<float>(value);
    return rounded < value ? std::nextafter(rounded, std::numeric_limits<float>::infinity())
                           : rounded;
  }

  double threshold() const {
    if (options_.head_thresholds.empty()) {
      return options_.threshold.value_or(-std::numeric_limits<double>::infinity());
    }
    return options_.head_thresholds[row_ / grid_.q_tiles() % grid_.heads];
  }

  float& at_row(const TensorView& tensor) const { return static_cast<float*>(tensor.data)[row_]; }

  float score(std::int64_t tile) const {
    const float score = scores_[tile] + fall_;
    return score > 0 ? 0.0f : score;
  }

  std::uint64_t mask(std::int64_t word) const { return inputs_.mask.row(row_)[word]; }
  std::uint64_t computed(std::int64_t word) const {
    return inputs_.computed ? inputs_.computed.row(row_)[word] : grid_.valid_bits(word);
  }

  // Tiles of a word whose score reaches the threshold. NaN never does.
  std::uint64_t marked_bits(std::int64_t word) const {
    if (inputs_.marks) return inputs_.marks.row(row_)[word];
    std::uint64_t bits = 0;
    if (threshold_ == -std::numeric_limits<double>::infinity()) return bits;
    const std::int64_t tiles = std::min<std::int64_t>(64, grid_.k_tiles() - word * 64);
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
      bits |= static_cast<std::uint64_t>(score(word * 64 + tile) <= threshold_) << tile;
    }
    return bits;
  }

  std::int64_t valid_keys() const {
    const TensorView& lens = inputs_.k_lens;
    const std::int64_t batch = row_ / grid_.q_tiles() / grid_.heads;
    return lens ? static_cast<const std::int32_t*>(lens.data)[batch * lens.strides[0]]
                : grid_.k_len;
  }

  float bound(std::int64_t tile) const {
    const std::int64_t keys =
        std::clamp<std::int64_t>(valid_keys() - tile * grid_.block_k, 0, grid_.block_k);
    const bool is_mass = options_.measure != Measure::largest_weight;
    const float share = (is_mass ? 1.0f : static_cast<float>(keys)) * std::exp2(score(tile));
    return std::isnan(share) ? 1.0f : std::min(1.0f, share);
  }

  // Calls visit(tile, bound) for the tiles of a word.
  template <typename Visit>
  void for_each_bound(std::int64_t word, std::uint64_t bits, Visit&& visit) const {
    for (; bits != 0; bits &= bits - 1) {
      const std::int64_t tile = word * 64 + std::countr_zero(bits);
      visit(tile, bound(tile));
    }
  }

  double probed_mass() const {
    double mass = 0;
    for (std::int64_t word = 0; word < grid_.words_per_row(); ++word) {
      for_each_bound(word, computed(word) & ~mask(word),
                     [&](std::int64_t, float bound) { mass += bound; });
    }
    return mass;
  }

  // How far down the buckets the budget reaches, before anything is dropped.
  void find_affordable_bounds() {
    std::array<double, kBuckets> sums{};
    const bool is_protected =
        has_bit(touched_bits(options_.protected_queries, q_tile_ / 64, grid_.block_q), q_tile_);
    for (std::int64_t word = 0; !is_protected && word < grid_.words_per_row(); ++word) {
      const std::uint64_t candidates = mask(word) & computed(word) & marked_bits(word) &
                                       ~touched_bits(options_.protected_keys, word, grid_.block_k);
      for_each_bound(word, candidates,
                     [&](std::int64_t, float bound) { sums[bucket_of(bound)] += bound; });
    }
    spent_ = at_row(outputs_.spent);
    last_bucket_ = kBuckets - 1;
    while (last_bucket_ >= 0 && spent_ + sums[last_bucket_] <= *options_.mass_budget) {
      spent_ += sums[last_bucket_--];
    }
  }

  // Of the marked tiles of a word, those that may go. What was dropped before has been paid for.
  std::uint64_t droppable(std::int64_t word, std::uint64_t marked) {
    if (!options_.mass_budget) return marked;
    for_each_bound(word, marked & mask(word), [&](std::int64_t tile, float bound) {
      const int bucket = bucket_of(bound);
      const bool fits = bucket == last_bucket_ && spent_ + bound <= *options_.mass_budget;
      if (fits) spent_ += bound;
      if (bucket <= last_bucket_ && !fits) marked &= ~(std::uint64_t{1} << (tile % 64));
    });
    return marked;
  }

  const UpdateMaskInputs& inputs_;
  const UpdateMaskOptions& options_;
  const UpdateMaskOutputs& outputs_;
  const TileGrid grid_;
  const std::int64_t row_;
  const std::int64_t q_tile_;
  const double threshold_;
  const float* scores_;
  const float fall_;
  double spent_ = 0;
  int last_bucket_ = -1;  // its bounds are dropped while they fit, those of later ones all
};

}  // namespace saccade

#include "core/next_mask.h"
#include "core/parallel.h"
#include "cpu/constants.h"
#include "cpu/cpu_backend.h"

namespace saccade::cpu {
namespace {

// Rows of tiles per unit of work: a few microseconds.
constexpr std::int64_t kRowsPerUnit = 256;

// Bits of the tiles of one word whose score reaches the threshold. NaN never does.
std::uint64_t marked_bits(const float* scores, std::int64_t tiles, double threshold) {
  std::uint64_t bits = 0;
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    bits |= static_cast<std::uint64_t>(scores[tile] <= threshold) << tile;
  }
  return bits;
}

void update_row(const UpdateMaskInputs& inputs,
                const UpdateMaskOptions& options,
                std::int64_t row,
                const TileMaskView& next) {
  const TileGrid& grid = next.grid;
  const double threshold = options.threshold.value_or(-kInfinity);
  const float* scores = static_cast<const float*>(inputs.scores.data) + row * grid.k_tiles();
  const bool is_protected_row =
      (protected_bits(options.protected_queries, row % grid.q_tiles() / 64, grid.block_q) >>
       (row % grid.q_tiles() % 64)) &
      1;
  for (std::int64_t word = 0; word < grid.words_per_row(); ++word) {
    std::uint64_t marked = 0;
    if (inputs.marks) {
      marked = inputs.marks.row(row)[word];
    } else if (threshold > -kInfinity) {
      const std::int64_t tiles = std::min<std::int64_t>(64, grid.k_tiles() - word * 64);
      marked = marked_bits(scores + word * 64, tiles, threshold);
    }
    const std::uint64_t protected_tiles =
        is_protected_row ? ~std::uint64_t{0}
                         : protected_bits(options.protected_keys, word, grid.block_k);
    const std::uint64_t computed =
        inputs.computed ? inputs.computed.row(row)[word] : ~std::uint64_t{0};
    next.row(row)[word] = next_word(inputs.mask.row(row)[word], computed, marked, protected_tiles) &
                          grid.valid_bits(word);
  }
}

}  // namespace

void update_mask(const Execution& execution,
                 const UpdateMaskInputs& inputs,
                 const UpdateMaskOptions& options,
                 const TileMaskView& next) {
  const std::int64_t rows = next.grid.rows();
  const std::int64_t units = (rows + kRowsPerUnit - 1) / kRowsPerUnit;
  for_each_unit(execution, units, [&](int, std::int64_t unit) {
    const std::int64_t end = std::min(rows, (unit + 1) * kRowsPerUnit);
    for (std::int64_t row = unit * kRowsPerUnit; row < end; ++row) {
      update_row(inputs, options, row, next);
    }
  });
}

}  // namespace saccade::cpu

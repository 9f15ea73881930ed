#include "core/mask_row.h"
#include "core/require.h"

#include <saccade/error.h>
#include <saccade/tile_mask.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <string_view>

namespace saccade {
namespace {

void check_index(std::string_view name, std::int64_t index, std::int64_t count) {
  if (index >= 0 && index < count) return;
  throw InvalidArgument(
      fmt::format("{} is {}, but must be at least 0 and at most {}", name, index, count - 1));
}

void check_tile(const TileGrid& grid,
                std::int64_t batch,
                std::int64_t head,
                std::int64_t q_tile,
                std::int64_t k_tile) {
  check_index("batch", batch, grid.batch);
  check_index("head", head, grid.heads);
  check_index("q_tile", q_tile, grid.q_tiles());
  check_index("k_tile", k_tile, grid.k_tiles());
}

std::uint64_t bit_of(std::int64_t tile) {
  return std::uint64_t{1} << (tile % 64);
}

bool holds(const std::uint64_t* row, std::int64_t tile) {
  return row[tile / 64] & bit_of(tile);
}

}  // namespace

std::int64_t count_active(const TileMaskView& mask) {
  require_mask("mask", mask, mask.grid);
  validate(mask.grid);
  std::int64_t active = 0;
  for (std::int64_t i = 0; i < mask.grid.words(); ++i) active += std::popcount(mask.words[i]);
  return active;
}

TileMask::TileMask(const TileGrid& grid) : grid_(grid) {
  validate(grid);
  words_.resize(grid.words());
}

TileMask TileMask::full(const TileGrid& grid) {
  return ~TileMask(grid);
}

TileMask TileMask::from_dense(const TileGrid& grid, std::span<const std::uint8_t> active) {
  TileMask mask(grid);
  if (static_cast<std::int64_t>(active.size()) != grid.tiles()) {
    throw InvalidArgument(fmt::format("active has {} elements, but needs {}: one for each tile",
                                      active.size(), grid.tiles()));
  }
  const std::uint8_t* element = active.data();
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    std::uint64_t* words = mask.view().row(row);
    for (std::int64_t tile = 0; tile < grid.k_tiles(); ++tile) {
      if (*element++ != 0) words[tile / 64] |= bit_of(tile);
    }
  }
  return mask;
}

TileMaskView TileMask::view() const {
  return {grid_, const_cast<std::uint64_t*>(words_.data()), Device{}};
}

bool TileMask::test(std::int64_t batch,
                    std::int64_t head,
                    std::int64_t q_tile,
                    std::int64_t k_tile) const {
  check_tile(grid_, batch, head, q_tile, k_tile);
  return view().test(view().row_index(batch, head, q_tile), k_tile);
}

void TileMask::set(
    std::int64_t batch, std::int64_t head, std::int64_t q_tile, std::int64_t k_tile, bool active) {
  check_tile(grid_, batch, head, q_tile, k_tile);
  std::uint64_t& word = view().row(view().row_index(batch, head, q_tile))[k_tile / 64];
  word = active ? word | bit_of(k_tile) : word & ~bit_of(k_tile);
}

TileMask& TileMask::operator|=(const TileMask& other) {
  require_mask("the other mask", other.view(), grid_);
  std::transform(words_.begin(), words_.end(), other.words_.begin(), words_.begin(),
                 std::bit_or<>{});
  return *this;
}

TileMask& TileMask::operator&=(const TileMask& other) {
  require_mask("the other mask", other.view(), grid_);
  std::transform(words_.begin(), words_.end(), other.words_.begin(), words_.begin(),
                 std::bit_and<>{});
  return *this;
}

TileMask& TileMask::operator-=(const TileMask& other) {
  require_mask("the other mask", other.view(), grid_);
  std::transform(words_.begin(), words_.end(), other.words_.begin(), words_.begin(),
                 [](std::uint64_t word, std::uint64_t removed) { return word & ~removed; });
  return *this;
}

TileMask TileMask::operator~() const {
  TileMask complement(grid_);
  const std::int64_t words_per_row = grid_.words_per_row();
  for (std::int64_t i = 0; i < grid_.words(); ++i) {
    complement.words_[i] = ~words_[i] & grid_.valid_bits(i % words_per_row);
  }
  return complement;
}

std::vector<TileRange> TileMask::ranges(std::int64_t row_index) const {
  check_index("row_index", row_index, grid_.rows());
  const std::uint64_t* row = view().row(row_index);
  std::vector<TileRange> found;
  for (std::int64_t tile = 0; tile < grid_.k_tiles(); ++tile) {
    if (!holds(row, tile)) continue;
    if (found.empty() || found.back().end != tile) found.push_back({tile, tile});
    ++found.back().end;
  }
  return found;
}

void TileMask::set_ranges(std::int64_t row_index, std::span<const TileRange> ranges) {
  check_index("row_index", row_index, grid_.rows());
  for (const auto& [begin, end] : ranges) {
    if (0 <= begin && begin <= end && end <= grid_.k_tiles()) continue;
    throw InvalidArgument(
        fmt::format("ranges holds the range [{}, {}), but needs 0 <= begin <= end <= {}", begin,
                    end, grid_.k_tiles()));
  }
  std::uint64_t* row = view().row(row_index);
  std::fill_n(row, grid_.words_per_row(), 0);
  for (const auto& [begin, end] : ranges) {
    for (std::int64_t tile = begin; tile < end; ++tile) row[tile / 64] |= bit_of(tile);
  }
}

void TileMask::protect(std::span<const TokenRange> query_ranges,
                       std::span<const TokenRange> key_ranges) {
  require_ranges("query_ranges", query_ranges, grid_.q_len);
  require_ranges("key_ranges", key_ranges, grid_.k_len);

  std::vector<std::uint64_t> protected_columns(grid_.words_per_row());
  for (std::int64_t word = 0; word < grid_.words_per_row(); ++word) {
    protected_columns[word] = touched_bits(key_ranges, word, grid_.block_k);
  }
  for (std::int64_t row = 0; row < grid_.rows(); ++row) {
    const std::int64_t q_tile = row % grid_.q_tiles();
    const bool is_protected =
        touched_bits(query_ranges, q_tile / 64, grid_.block_q) & bit_of(q_tile);
    for (std::int64_t word = 0; word < grid_.words_per_row(); ++word) {
      view().row(row)[word] |= is_protected ? grid_.valid_bits(word) : protected_columns[word];
    }
  }
}

std::int64_t TileMask::count() const {
  return count_active(view());
}

double TileMask::sparsity() const {
  return static_cast<double>(grid_.tiles() - count()) / static_cast<double>(grid_.tiles());
}

std::vector<std::uint8_t> TileMask::to_dense() const {
  std::vector<std::uint8_t> active;
  active.reserve(grid_.tiles());
  for (std::int64_t row = 0; row < grid_.rows(); ++row) {
    const std::uint64_t* words = view().row(row);
    for (std::int64_t tile = 0; tile < grid_.k_tiles(); ++tile) {
      active.push_back(holds(words, tile));
    }
  }
  return active;
}

}  // namespace saccade

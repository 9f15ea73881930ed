#include <saccade/error.h>
#include <saccade/tile_mask.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <string>
#include <string_view>

namespace saccade {
namespace {

std::string describe(const TileGrid& grid) {
  return fmt::format("batch {}, heads {}, q_len {}, k_len {}, tiles of {} x {}", grid.batch,
                     grid.heads, grid.q_len, grid.k_len, grid.block_q, grid.block_k);
}

void check_same_grid(const TileGrid& left, const TileGrid& right) {
  if (left == right) return;
  throw InvalidArgument(
      fmt::format("masks of different grids: ({}) and ({})", describe(left), describe(right)));
}

void check_index(std::string_view name, std::int64_t index, std::int64_t count) {
  if (index >= 0 && index < count) return;
  throw InvalidArgument(
      fmt::format("{} is {}, but must be at least 0 and at most {}", name, index, count - 1));
}

void check_range(std::string_view name, std::int64_t begin, std::int64_t end, std::int64_t length) {
  if (0 <= begin && begin <= end && end <= length) return;
  throw InvalidArgument(fmt::format("{} is [{}, {}), but must satisfy 0 <= begin <= end <= {}",
                                    name, begin, end, length));
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

// The bits of word `word` that lie in [begin, end), which is not empty.
std::uint64_t bits_between(std::int64_t word, std::int64_t begin, std::int64_t end) {
  const std::int64_t low = std::max<std::int64_t>(begin - word * 64, 0);
  const std::int64_t high = std::min<std::int64_t>(end - word * 64, 64);
  return ~std::uint64_t{0} << low & ~std::uint64_t{0} >> (64 - high);
}

void set_bits(std::uint64_t* row, std::int64_t begin, std::int64_t end) {
  if (begin == end) return;
  for (std::int64_t word = begin / 64; word <= (end - 1) / 64; ++word) {
    row[word] |= bits_between(word, begin, end);
  }
}

// The first tile at or after `from` whose state is `active`; k_tiles if there is none.
std::int64_t find_tile(const std::uint64_t* row,
                       std::int64_t k_tiles,
                       std::int64_t from,
                       bool active) {
  while (from < k_tiles) {
    const std::uint64_t wanted = active ? row[from / 64] : ~row[from / 64];
    const std::uint64_t ahead = wanted >> (from % 64);
    if (ahead != 0) return std::min(from + std::countr_zero(ahead), k_tiles);
    from = (from / 64 + 1) * 64;
  }
  return k_tiles;
}

// Rounds outward to tiles; an empty range stays empty.
TileRange tiles_of(const TokenRange& tokens, int block) {
  if (tokens.begin == tokens.end) return {};
  return {tokens.begin / block, (tokens.end + block - 1) / block};
}

}  // namespace

std::int64_t count_active(const TileMaskView& mask) {
  if (!mask) throw InvalidArgument("a mask is absent where its tiles are to be listed or counted");
  if (mask.device.type != DeviceType::cpu) {
    throw InvalidArgument("a mask lies in device memory, but must lie in host memory");
  }
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
    throw InvalidArgument(
        fmt::format("active has {} elements, but must have {}: one for each tile of ({})",
                    active.size(), grid.tiles(), describe(grid)));
  }
  const std::uint8_t* element = active.data();
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    std::uint64_t* words = mask.view().row(row);
    for (std::int64_t tile = 0; tile < grid.k_tiles(); ++tile) {
      words[tile / 64] |= std::uint64_t{*element++ != 0} << (tile % 64);
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
  const std::uint64_t bit = std::uint64_t{1} << (k_tile % 64);
  word = active ? word | bit : word & ~bit;
}

TileMask& TileMask::operator|=(const TileMask& other) {
  check_same_grid(grid_, other.grid_);
  std::transform(words_.begin(), words_.end(), other.words_.begin(), words_.begin(),
                 std::bit_or<>{});
  return *this;
}

TileMask& TileMask::operator&=(const TileMask& other) {
  check_same_grid(grid_, other.grid_);
  std::transform(words_.begin(), words_.end(), other.words_.begin(), words_.begin(),
                 std::bit_and<>{});
  return *this;
}

TileMask& TileMask::operator-=(const TileMask& other) {
  check_same_grid(grid_, other.grid_);
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
  const std::int64_t k_tiles = grid_.k_tiles();
  std::vector<TileRange> found;
  std::int64_t end = 0;
  for (;;) {
    const std::int64_t begin = find_tile(row, k_tiles, end, true);
    if (begin == k_tiles) return found;
    end = find_tile(row, k_tiles, begin, false);
    found.push_back({begin, end});
  }
}

void TileMask::set_ranges(std::int64_t row_index, std::span<const TileRange> ranges) {
  check_index("row_index", row_index, grid_.rows());
  for (const auto& [begin, end] : ranges) check_range("tile range", begin, end, grid_.k_tiles());

  std::uint64_t* row = view().row(row_index);
  std::fill_n(row, grid_.words_per_row(), 0);
  for (const auto& [begin, end] : ranges) set_bits(row, begin, end);
}

void TileMask::protect(std::span<const TokenRange> query_ranges,
                       std::span<const TokenRange> key_ranges) {
  for (const auto& [begin, end] : query_ranges) check_range("query range", begin, end, grid_.q_len);
  for (const auto& [begin, end] : key_ranges) check_range("key range", begin, end, grid_.k_len);

  const std::int64_t q_tiles = grid_.q_tiles();
  for (std::int64_t row = 0; row < grid_.rows(); ++row) {
    for (const TokenRange& range : key_ranges) {
      const TileRange tiles = tiles_of(range, grid_.block_k);
      set_bits(view().row(row), tiles.begin, tiles.end);
    }
    for (const TokenRange& range : query_ranges) {
      const TileRange tiles = tiles_of(range, grid_.block_q);
      const std::int64_t q_tile = row % q_tiles;
      if (tiles.begin <= q_tile && q_tile < tiles.end) {
        set_bits(view().row(row), 0, grid_.k_tiles());
      }
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
    for (std::int64_t tile = 0; tile < grid_.k_tiles(); ++tile) {
      active.push_back(view().test(row, tile));
    }
  }
  return active;
}

}  // namespace saccade

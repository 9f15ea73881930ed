#include <saccade/error.h>
#include <saccade/tile_index.h>

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace saccade {
namespace {

// The active tiles below a limit of one row, word by word.
class RowBits {
 public:
  RowBits(const TileGrid& grid, const std::uint64_t* words, std::int64_t tile_limit)
      : words_(words), limit_(std::clamp<std::int64_t>(tile_limit, 0, grid.k_tiles())) {}

  std::int64_t limit() const { return limit_; }
  std::int64_t word_count() const { return (limit_ + 63) / 64; }

  std::uint64_t word(std::int64_t index) const {
    const std::uint64_t bits = words_ == nullptr ? ~std::uint64_t{0} : words_[index];
    const std::int64_t tiles_left = limit_ - index * 64;
    return tiles_left >= 64 ? bits : bits & ((std::uint64_t{1} << tiles_left) - 1);
  }

  bool test(std::int64_t tile) const {
    if (tile < 0 || tile >= limit_) return false;
    return words_ == nullptr || ((words_[tile / 64] >> (tile % 64)) & 1);
  }

 private:
  const std::uint64_t* words_;
  std::int64_t limit_;
};

template <typename Visit>
void visit_ascending(const RowBits& row, Visit visit) {
  for (std::int64_t index = 0; index < row.word_count(); ++index) {
    for (std::uint64_t bits = row.word(index); bits != 0; bits &= bits - 1) {
      visit(index * 64 + std::countr_zero(bits));
    }
  }
}

template <typename Visit>
void visit_descending(const RowBits& row, Visit visit) {
  for (std::int64_t index = row.word_count() - 1; index >= 0; --index) {
    for (std::uint64_t bits = row.word(index); bits != 0;) {
      const int bit = 63 - std::countl_zero(bits);
      bits ^= std::uint64_t{1} << bit;
      visit(index * 64 + bit);
    }
  }
}

template <typename Visit>
void visit_outwards(const RowBits& row, std::int64_t centre, Visit visit) {
  if (row.test(centre)) visit(centre);
  const std::int64_t farthest = std::max(centre, row.limit() - 1 - centre);
  for (std::int64_t distance = 1; distance <= farthest; ++distance) {
    if (row.test(centre - distance)) visit(centre - distance);
    if (row.test(centre + distance)) visit(centre + distance);
  }
}

// Ascending tiles -> by falling priority. Every two tiles have an order, so that there is but one
// result.
void sort_by_priority(const float* priorities, std::int32_t* begin, std::int32_t* end) {
  std::sort(begin, end, [priorities](std::int32_t a, std::int32_t b) {
    const bool is_nan = std::isnan(priorities[a]);
    if (is_nan != std::isnan(priorities[b])) return is_nan;
    return is_nan || priorities[a] == priorities[b] ? a < b : priorities[a] > priorities[b];
  });
}

}  // namespace

std::string_view name_of(VisitOrder order) {
  switch (order) {
    case VisitOrder::linear:
      return "linear";
    case VisitOrder::reversed:
      return "reversed";
    case VisitOrder::radial:
      return "radial";
    case VisitOrder::strongest:
      return "strongest";
  }
  throw InvalidArgument(fmt::format("order is {}, but must be a value of saccade::VisitOrder",
                                    static_cast<int>(order)));
}

// The key tile under the middle of the row's queries. Lengths of up to 31 bits keep the product
// below 2^63.
std::int64_t diagonal_tile(const TileGrid& grid, std::int64_t q_tile) {
  const std::int64_t twice_middle = (2 * q_tile + 1) * grid.block_q;
  const std::int64_t tile = twice_middle * grid.k_len / (2 * grid.q_len * grid.block_k);
  return std::min(tile, grid.k_tiles() - 1);
}

std::int64_t list_row(const TileGrid& grid,
                      const std::uint64_t* row_words,
                      std::int64_t q_tile,
                      std::int64_t k_tile_limit,
                      VisitOrder order,
                      const float* priorities,
                      std::int32_t* tiles) {
  const RowBits row(grid, row_words, k_tile_limit);
  std::int32_t* end = tiles;
  const auto append = [&end](std::int64_t tile) { *end++ = static_cast<std::int32_t>(tile); };
  switch (order) {
    case VisitOrder::linear:
      visit_ascending(row, append);
      break;
    case VisitOrder::reversed:
      visit_descending(row, append);
      break;
    case VisitOrder::radial:
      visit_outwards(row, diagonal_tile(grid, q_tile), append);
      break;
    case VisitOrder::strongest:
      visit_ascending(row, append);
      sort_by_priority(priorities, tiles, end);
      break;
  }
  return end - tiles;
}

TileIndex TileIndex::rows(const TileMaskView& mask, VisitOrder order, const float* priorities) {
  if (order == VisitOrder::strongest && priorities == nullptr) {
    throw InvalidArgument("priorities are missing, but the order strongest needs them");
  }
  const TileGrid& grid = mask.grid;
  TileIndex index;
  index.tiles.resize(count_active(mask));
  index.offsets.assign(grid.rows() + 1, 0);
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    const std::int64_t begin = index.offsets[row];
    const float* of_row = priorities == nullptr ? nullptr : priorities + row * grid.k_tiles();
    index.offsets[row + 1] =
        begin + list_row(grid, mask.row(row), row % grid.q_tiles(), grid.k_tiles(), order, of_row,
                         index.tiles.data() + begin);
  }
  return index;
}

TileIndex TileIndex::columns(const TileMaskView& mask) {
  const TileGrid& grid = mask.grid;
  TileIndex index;
  index.tiles.resize(count_active(mask));
  index.offsets.assign(grid.batch * grid.heads * grid.k_tiles() + 1, 0);

  const auto visit_active = [&](auto visit) {
    for (std::int64_t row = 0; row < grid.rows(); ++row) {
      const std::int64_t first_list = row / grid.q_tiles() * grid.k_tiles();
      visit_ascending(RowBits(grid, mask.row(row), grid.k_tiles()), [&](std::int64_t k_tile) {
        visit(first_list + k_tile, row % grid.q_tiles());
      });
    }
  };
  // Counts every list one place to the right, so that the running sum yields the offsets.
  visit_active([&](std::int64_t list, std::int64_t) { ++index.offsets[list + 1]; });
  std::partial_sum(index.offsets.begin(), index.offsets.end(), index.offsets.begin());

  std::vector<std::int64_t> ends(index.offsets.begin(), index.offsets.end() - 1);
  visit_active([&](std::int64_t list, std::int64_t q_tile) {
    index.tiles[ends[list]++] = static_cast<std::int32_t>(q_tile);
  });
  return index;
}

}  // namespace saccade

#include "cpu/forward_layout.h"

#include <algorithm>
#include <bit>
#include <span>

namespace saccade::cpu {
namespace {

// Packed keys and values are kept for as many heads at a time as fit into this, at least one.
constexpr std::int64_t kPackedBytes = std::int64_t{64} << 20;

// A row is cut until there are this many units, into pieces of at least so many tiles.
constexpr std::int64_t kEnoughUnits = 64;
constexpr std::int64_t kLeastTiles = 16;

std::int64_t pieces_of_a_row(const ForwardProblem& problem) {
  const std::int64_t wanted = kEnoughUnits / problem.grid.rows();
  return std::max<std::int64_t>(1, std::min(wanted, problem.grid.k_tiles() / kLeastTiles));
}

// What a piece of a row, which visits so many tiles at most, leaves.
void take_results(Arena& arena,
                  const ForwardProblem& problem,
                  std::int64_t tiles,
                  ForwardScratch& scratch) {
  const std::int64_t queries = problem.grid.block_q;
  scratch.out = arena.take<float>(queries * problem.head_dim);
  scratch.row_max = arena.take<float>(queries);
  scratch.row_sum = arena.take<float>(queries);
  scratch.scores = arena.take<float>(problem.grid.k_tiles());
  // Whatever the outputs, which a question for the size of the workspace does not name.
  if (problem.measure == Measure::largest_weight) return;
  scratch.tile_sum = arena.take<float>(tiles * queries);
  scratch.tile_level = arena.take<float>(tiles * queries);
}

std::int64_t tiles_of_a_piece(const ForwardProblem& problem, std::int64_t pieces) {
  return (problem.grid.k_tiles() + pieces - 1) / pieces;
}

std::int64_t count_listed(const ForwardProblem& problem, std::int64_t head, std::int64_t q_tile) {
  const std::int64_t batch = head / problem.grid.heads;
  const std::uint64_t* words = problem.tile_row(batch, head % problem.grid.heads, q_tile);
  if (words == nullptr) return problem.valid_k_tiles(batch);
  std::int64_t count = 0;
  for (std::int64_t w = 0; w < problem.grid.words_per_row(); ++w) count += std::popcount(words[w]);
  return count;
}

}  // namespace

ForwardScratch::ForwardScratch(Arena& arena, const ForwardProblem& problem, std::ptrdiff_t width) {
  const std::int64_t queries = problem.grid.block_q;
  const Words words = words_of(problem);
  q = arena.take<float>(queries * problem.head_dim / elements_per_word(words));
  take_results(arena, problem, problem.grid.k_tiles(), *this);
  lse = arena.take<float>(queries);
  inverse_sum = arena.take<float>(queries);
  ref = arena.take<float>(queries);
  earlier = arena.take<float>(queries);
  logits = arena.take<float>(kRunKeys * width);
  weights = words == Words::floats ? logits : arena.take<float>(kRunKeys / 2 * width);
  tile_max = arena.take<float>(kRunKeys / problem.grid.block_k * width);
  factor = arena.take<float>(width);
  tiles = arena.take<std::int32_t>(problem.grid.k_tiles());
}

ForwardLayout::ForwardLayout(Arena& arena,
                             const ForwardProblem& problem,
                             int workers,
                             std::ptrdiff_t width)
    : packing(problem, Pass::forward), pieces(pieces_of_a_row(problem)), width_(width) {
  pieces_per_unit = problem.has_running_reference() ? pieces : 1;
  const std::int64_t key_heads = problem.grid.batch * problem.k_heads;
  const std::int64_t bytes = packing.bytes_per_head();
  group = bytes == 0 ? key_heads : std::clamp<std::int64_t>(kPackedBytes / bytes, 1, key_heads);
  packing.allocate(arena, group);
  const std::int64_t rows = group * problem.heads_per_key_head() * problem.grid.q_tiles();
  units_ = arena.take<Unit>(rows * pieces / pieces_per_unit);
  Arena counting;
  ForwardScratch scratch(counting, problem, width);
  scratch_bytes_ = counting.used();
  scratch_ = arena.take<std::byte>(workers * static_cast<std::int64_t>(scratch_bytes_));
  if (pieces > 1) {
    Arena of_piece;
    take_results(of_piece, problem, tiles_of_a_piece(problem, pieces), scratch);
    piece_bytes_ = of_piece.used();
    piece_results_ = arena.take<std::byte>(rows * pieces * static_cast<std::int64_t>(piece_bytes_));
  }
}

std::int64_t ForwardLayout::list_units(const ForwardProblem& problem, HeadRange key_heads) const {
  const std::int64_t group_heads = problem.heads_per_key_head();
  Unit* end = units_;
  for (std::int64_t key_head = key_heads.begin; key_head < key_heads.end; ++key_head) {
    Unit* begin = end;
    for (std::int64_t head = key_head * group_heads; head < (key_head + 1) * group_heads; ++head) {
      for (std::int64_t q_tile = 0; q_tile < problem.grid.q_tiles(); ++q_tile) {
        const std::int64_t listed = count_listed(problem, head, q_tile);
        for (std::int64_t piece = 0; piece < pieces; piece += pieces_per_unit) {
          *end++ = {static_cast<std::int32_t>(head), static_cast<std::int32_t>(q_tile),
                    static_cast<std::int32_t>(listed), static_cast<std::int32_t>(piece)};
        }
      }
    }
    std::sort(begin, end, [](const Unit& a, const Unit& b) {
      if (a.listed != b.listed) return a.listed > b.listed;
      if (a.head != b.head) return a.head < b.head;
      return a.q_tile != b.q_tile ? a.q_tile < b.q_tile : a.piece < b.piece;
    });
  }
  return end - units_;
}

RowOfTiles ForwardLayout::row_of_tiles(const ForwardProblem& problem,
                                       HeadRange key_heads,
                                       std::int64_t unit) const {
  const Unit& row = units_[unit];
  return {row.head / problem.grid.heads, row.head % problem.grid.heads, row.q_tile,
          packing.head(problem, key_heads, row.head / problem.heads_per_key_head()), row.piece};
}

ForwardScratch ForwardLayout::worker_scratch(const ForwardProblem& problem, int worker) const {
  Arena arena(std::span(scratch_ + worker * scratch_bytes_, scratch_bytes_));
  return ForwardScratch(arena, problem, width_);
}

ForwardScratch ForwardLayout::piece_scratch(const ForwardProblem& problem,
                                            int worker,
                                            std::int64_t piece) const {
  ForwardScratch scratch = worker_scratch(problem, worker);
  if (pieces > 1) {
    Arena arena(std::span(piece_results_ + piece * piece_bytes_, piece_bytes_));
    take_results(arena, problem, tiles_of_a_piece(problem, pieces), scratch);
  }
  return scratch;
}

}  // namespace saccade::cpu

#include "cpu/backward_layout.h"

#include <algorithm>
#include <utility>

namespace saccade::cpu {
namespace {

// Enough units to keep many threads busy to the end. A function of the problem only: the slots
// decide the order of summation.
constexpr std::int64_t kUnits = 128;

// Units in flight per worker, so that the pause at the end of a group stays short.
constexpr std::int64_t kUnitsPerWorker = 8;

// Bound on the buffers of a group, unless a single head needs more.
constexpr std::int64_t kGroupBytes = std::int64_t{128} << 20;

// Queries visited at a time: with their five buffers, S, dP and the column's own four they fit into
// 512 KiB of L2 together with the next ones.
std::int64_t chunk_for(int head_dim) {
  return head_dim <= 64 ? 128 : 64;
}

// Floats between the rows of S, beyond the queries: keeps rows off each other's cache sets.
constexpr std::ptrdiff_t kRowPadding = 16;

std::int64_t round_up(std::int64_t value, std::int64_t step) {
  return (value + step - 1) / step * step;
}

}  // namespace

bool is_active(const AttentionProblem& problem,
               std::int64_t head,
               std::int64_t q_tile,
               std::int64_t k_tile) {
  if (problem.tiles == nullptr) return true;
  const std::uint64_t* words =
      problem.tile_row(head / problem.grid.heads, head % problem.grid.heads, q_tile);
  return (words[k_tile / 64] >> (k_tile % 64)) & 1;
}

bool has_active_tile(const AttentionProblem& problem, std::int64_t head, std::int64_t q_tile) {
  const std::int64_t batch = head / problem.grid.heads;
  if (q_tile >= problem.valid_q_tiles(batch)) return false;
  for (std::int64_t k_tile = 0; k_tile < problem.valid_k_tiles(batch); ++k_tile) {
    if (is_active(problem, head, q_tile, k_tile)) return true;
  }
  return false;
}

QueryBuffers QueryBuffers::from(const BackwardProblem& problem, std::int64_t query) const {
  const std::int64_t elements = elements_per_word(words_of(problem));
  const std::int64_t panel_words = query * problem.head_dim / elements;
  const std::int64_t strip_words = query * width / elements;
  return {.q_panels = q_panels + panel_words,
          .dout_panels = dout_panels + panel_words,
          .q_strips = q_strips + strip_words,
          .dout_strips = dout_strips + strip_words,
          .lse = lse + query,
          .delta = delta + query,
          .dq_panels = dq_panels + query * problem.head_dim,
          .width = width};
}

QueryBuffers HeadBuffers::query(const BackwardProblem& problem,
                                std::int64_t head_of_group,
                                std::int64_t q_tile,
                                int slot) const {
  const std::int64_t first = q_tile * problem.grid.block_q;
  const std::int64_t queries = layout->padded_queries_;
  const std::int64_t elements = elements_per_word(words_of(problem));
  const std::int64_t panels = first * problem.head_dim / elements;
  const std::int64_t strips = first * layout->padded_head_dim_ / elements;
  const std::int64_t panel_words = queries * problem.head_dim / elements;
  const std::int64_t strip_words = queries * layout->padded_head_dim_ / elements;
  QueryBuffers buffers;
  float* at = memory + head_of_group * layout->query_floats_;
  const auto take = [&at](std::int64_t floats) { return std::exchange(at, at + floats); };
  buffers.q_panels = take(panel_words) + panels;
  buffers.dout_panels = take(panel_words) + panels;
  buffers.q_strips = take(strip_words) + strips;
  buffers.dout_strips = take(strip_words) + strips;
  buffers.lse = take(queries) + first;
  buffers.delta = take(queries) + first;
  const std::int64_t group = problem.heads_per_key_head();
  buffers.dq_panels = memory + group * layout->query_floats_ +
                      (slot * group + head_of_group) * layout->dq_floats_ +
                      first * problem.head_dim;
  buffers.width = layout->width_;
  return buffers;
}

ColumnOfTiles HeadBuffers::column(const BackwardProblem& problem,
                                  const Slot& slot,
                                  std::int64_t k_tile) const {
  return {slot.key_head / problem.k_heads, slot.key_head % problem.k_heads, k_tile,
          keys.from(k_tile * problem.grid.block_k)};
}

BackwardLayout::BackwardLayout(Arena& arena,
                               const BackwardProblem& problem,
                               int workers,
                               std::ptrdiff_t width)
    : packing(problem, Pass::backward), width_(width) {
  const Words words = words_of(problem);
  const TileGrid& grid = problem.grid;
  const std::int64_t key_heads = grid.batch * problem.k_heads;
  const std::int64_t queries_per_key = problem.heads_per_key_head();
  slots_ = static_cast<int>(std::clamp<std::int64_t>(
      kUnits / key_heads, 1, std::min<std::int64_t>(kMaxSlots, grid.k_tiles())));

  padded_queries_ = grid.q_tiles() * grid.block_q;
  padded_head_dim_ = round_up(problem.head_dim, width);
  query_floats_ =
      padded_queries_ * (2 * (problem.head_dim + padded_head_dim_) / elements_per_word(words) + 2);
  dq_floats_ = padded_queries_ * problem.head_dim;
  head_floats_ = queries_per_key * (query_floats_ + slots_ * dq_floats_);
  const std::int64_t head_bytes =
      head_floats_ * static_cast<std::int64_t>(sizeof(float)) + packing.bytes_per_head();
  group = std::clamp<std::int64_t>(
      std::min(kUnitsPerWorker * workers / slots_, kGroupBytes / head_bytes), 1, key_heads);

  packing.allocate(arena, group);
  heads_ = arena.take<float>(group * head_floats_);
  touched_ = arena.take<std::uint8_t>(group * slots_ * queries_per_key * grid.q_tiles());
  slot_of_column_ = arena.take<std::int32_t>(group * grid.k_tiles());
  column_tiles_ = arena.take<std::int64_t>(grid.k_tiles());
  column_order_ = arena.take<std::int32_t>(grid.k_tiles());
  units = arena.take<Slot>(group * slots_);

  chunk_ = std::min<std::int64_t>(grid.block_q, chunk_for(problem.head_dim));
  s_floats_ =
      std::max<std::int64_t>(grid.block_k * (chunk_ + kRowPadding), problem.head_dim * width);
  ds_words_ = words == Words::floats ? 0 : grid.block_k / 2 * width;
  worker_floats_ = 2 * s_floats_ + ds_words_ + 2 * grid.block_k * padded_head_dim_;
  scratch_ = arena.take<float>(workers * worker_floats_);
  rows_ = arena.take<std::int32_t>(workers * queries_per_key * grid.q_tiles());
}

HeadBuffers BackwardLayout::head_buffers(const BackwardProblem& problem,
                                         HeadRange key_heads,
                                         std::int64_t index) const {
  const std::int64_t per_slot = problem.heads_per_key_head() * problem.grid.q_tiles();
  return {.layout = this,
          .memory = heads_ + index * head_floats_,
          .touched_ = touched_ + index * slots_ * per_slot,
          .touched_per_slot = per_slot,
          .slot_of_column = slot_of_column_ + index * problem.grid.k_tiles(),
          .keys = packing.head(problem, key_heads, key_heads.begin + index),
          .slots = slots_};
}

ColumnScratch BackwardLayout::column_scratch(const BackwardProblem& problem, int worker) const {
  const std::int64_t strip_floats = problem.grid.block_k * padded_head_dim_;
  float* at = scratch_ + worker * worker_floats_;
  const auto take = [&at](std::int64_t floats) { return std::exchange(at, at + floats); };
  return {.s = take(s_floats_),
          .dp = take(s_floats_),
          .ds_by_key = take(ds_words_),
          .dk = take(strip_floats),
          .dv = take(strip_floats),
          .rows = rows_ + worker * problem.heads_per_key_head() * problem.grid.q_tiles(),
          .stride = chunk_ + kRowPadding,
          .chunk = chunk_};
}

void BackwardLayout::deal_columns(const BackwardProblem& problem,
                                  std::int64_t key_head,
                                  std::int32_t* slot_of_column,
                                  Slot* head_slots) const {
  const std::int64_t k_tiles = problem.grid.k_tiles();
  const std::int64_t group_heads = problem.heads_per_key_head();
  for (std::int64_t k_tile = 0; k_tile < k_tiles; ++k_tile) {
    column_order_[k_tile] = static_cast<std::int32_t>(k_tile);
    column_tiles_[k_tile] = 0;
    for (std::int64_t head = key_head * group_heads; head < (key_head + 1) * group_heads; ++head) {
      for (std::int64_t q_tile = 0; q_tile < problem.grid.q_tiles(); ++q_tile) {
        column_tiles_[k_tile] += is_active(problem, head, q_tile, k_tile);
      }
    }
  }
  std::sort(column_order_, column_order_ + k_tiles, [this](std::int32_t a, std::int32_t b) {
    return column_tiles_[a] != column_tiles_[b] ? column_tiles_[a] > column_tiles_[b] : a < b;
  });
  for (int slot = 0; slot < slots_; ++slot) head_slots[slot] = {key_head, slot, 0};
  for (std::int64_t i = 0; i < k_tiles; ++i) {
    const std::int32_t k_tile = column_order_[i];
    Slot* slot = std::min_element(head_slots, head_slots + slots_,
                                  [](auto& a, auto& b) { return a.tiles < b.tiles; });
    slot_of_column[k_tile] = slot->index;
    slot->tiles += column_tiles_[k_tile];
  }
}

std::int64_t BackwardLayout::list_slots(const BackwardProblem& problem, HeadRange key_heads) const {
  for (std::int64_t key_head = key_heads.begin; key_head < key_heads.end; ++key_head) {
    const std::int64_t index = key_head - key_heads.begin;
    Slot* head_slots = units + index * slots_;
    deal_columns(problem, key_head, slot_of_column_ + index * problem.grid.k_tiles(), head_slots);
    std::sort(head_slots, head_slots + slots_, [](const Slot& a, const Slot& b) {
      return a.tiles != b.tiles ? a.tiles > b.tiles : a.index < b.index;
    });
  }
  return (key_heads.end - key_heads.begin) * slots_;
}

}  // namespace saccade::cpu

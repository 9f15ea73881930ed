#pragma once

#include "core/arena.h"
#include "core/attention_problem.h"
#include "cpu/key_value_packing.h"

#include <cstddef>
#include <cstdint>

// How a backward call is cut into units of work, and where their memory lies.
//
// Heads are counted over the batch: head = batch * heads + head of the sample, and likewise for key
// heads. A slot is one of a fixed number of partial sums of a head's dQ; it owns a fixed set of
// columns of tiles, so that results do not depend on the number of threads.

namespace saccade::cpu {

// Slots of a head at most: few enough for their sums to stay small beside its other buffers.
constexpr int kMaxSlots = 4;

// What the kernels read and write for one row of tiles. A panel is [head_dim][width], a strip
// [block_q][width] for `width` neighbouring head dimensions.
//
// Of words that are pairs, panels of q and dout have head_dim / 2 rows, each with two neighbouring
// dimensions. Strips have half a row for each query: the i-th row of a panel's part of a strip
// pairs the queries i and i + width / 2 of the panel, which lie in the same lane of its two
// vectors. Queries that a last panel lacks count as zeros.
struct QueryBuffers {
  float* q_panels;  // floats are times scale * log2(e)
  float* dout_panels;
  float* q_strips;
  float* dout_strips;
  float* lse;  // log2 units
  float* delta;
  float* dq_panels;  // of one slot, without the scale
  std::ptrdiff_t width;

  // The same from a later query of the row of tiles on; a whole number of panels later.
  QueryBuffers from(const BackwardProblem& problem, std::int64_t query) const;
};

// One column of tiles, and its keys and values.
struct ColumnOfTiles {
  std::int64_t batch, key_head, k_tile;  // key_head within the sample
  PackedHead keys;
};

// What one worker needs for one column of tiles.
struct ColumnScratch {
  float* s;   // [block_k][stride]; becomes P, in words
  float* dp;  // [block_k][stride]; becomes dS, in words
  float*
      ds_by_key;  // dS of one panel in words along the keys, [words of block_k][width]; pairs only
  float* dk;      // strips [block_k][width], without the scale
  float* dv;
  std::int32_t* rows;     // of tiles, to list a column in
  std::ptrdiff_t stride;  // words from one key's row of S to the next
  std::ptrdiff_t chunk;   // queries that S has room for
};

struct Slot {
  std::int64_t key_head;
  std::int32_t index;
  std::int64_t tiles;  // active tiles of its columns
};

class BackwardLayout;

// The buffers of one key head and the query heads that read it.
struct HeadBuffers {
  QueryBuffers query(const BackwardProblem& problem,
                     std::int64_t head_of_group,
                     std::int64_t q_tile,
                     int slot) const;
  ColumnOfTiles column(const BackwardProblem& problem, const Slot& slot, std::int64_t k_tile) const;
  // One byte per head of the group and row of tiles: whether the slot has a sum for it.
  std::uint8_t* touched(int slot) const { return touched_ + slot * touched_per_slot; }

  const BackwardLayout* layout;
  float* memory;
  std::uint8_t* touched_;
  std::int64_t touched_per_slot;
  const std::int32_t* slot_of_column;
  PackedHead keys;
  int slots;
};

class BackwardLayout {
 public:
  // `width`: floats in a panel.
  BackwardLayout(Arena& arena, const BackwardProblem& problem, int workers, std::ptrdiff_t width);

  // Buffers of the index-th key head of a group.
  HeadBuffers head_buffers(const BackwardProblem& problem,
                           HeadRange key_heads,
                           std::int64_t index) const;
  ColumnScratch column_scratch(const BackwardProblem& problem, int worker) const;

  // Deals the columns of every key head to its slots, the longest first, each to the slot with the
  // fewest tiles; fills `units` with the slots, head by head and the longest first.
  std::int64_t list_slots(const BackwardProblem& problem, HeadRange key_heads) const;

  KeyValuePacking packing;
  std::int64_t group;  // key heads at a time
  Slot* units;

 private:
  friend struct HeadBuffers;
  void deal_columns(const BackwardProblem& problem,
                    std::int64_t key_head,
                    std::int32_t* slot_of_column,
                    Slot* head_slots) const;

  std::ptrdiff_t width_;
  int slots_;
  std::int64_t padded_queries_;   // of one query head
  std::int64_t padded_head_dim_;  // a whole number of strips
  std::int64_t query_floats_;     // of one query head, without dQ
  std::int64_t dq_floats_;        // of one query head and slot
  std::int64_t head_floats_;      // of one key head
  std::int64_t s_floats_;         // of one worker, and so is all of the scratch
  std::int64_t ds_words_;
  std::int64_t worker_floats_;
  std::int64_t chunk_;
  float* heads_;
  std::uint8_t* touched_;
  std::int32_t* slot_of_column_;  // [group][k_tiles]
  std::int64_t* column_tiles_;    // [k_tiles]
  std::int32_t* column_order_;    // [k_tiles]
  float* scratch_;                // [workers][worker_floats_]
  std::int32_t* rows_;            // [workers][touched_per_slot]
};

// Whether a tile is computed: its bit is set. Lengths are not looked at.
bool is_active(const AttentionProblem& problem,
               std::int64_t head,
               std::int64_t q_tile,
               std::int64_t k_tile);

// Whether a row of tiles has a tile to compute at all.
bool has_active_tile(const AttentionProblem& problem, std::int64_t head, std::int64_t q_tile);

}  // namespace saccade::cpu

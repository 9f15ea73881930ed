#pragma once

#include "core/arena.h"
#include "core/attention_problem.h"
#include "cpu/key_value_packing.h"

#include <cstddef>
#include <cstdint>

// How a forward call is cut into units of work, and where their memory lies.

namespace saccade::cpu {

// What one worker needs for one row of tiles. A panel is as many queries as fill two vectors; all
// arrays hold whole panels.
struct ForwardScratch {
  // Tiles that are neighbours in memory and in visit order are visited as one, up to so many keys:
  // longer products lose less between them.
  static constexpr std::int64_t kRunKeys = 128;

  // `width`: floats in a panel.
  ForwardScratch(Arena& arena, const ForwardProblem& problem, std::ptrdiff_t width);

  float* q;        // [panel][words of head_dim][width]; floats are times scale * log2(e)
  float* out;      // [panel][head_dim][width], not yet normalised
  float* row_max;  // running maximum, log2 units
  float* row_sum;  // running sum of 2^(S - row_max)
  float* lse;      // log2 units
  float* inverse_sum;
  float* ref;       // what scores are measured against; +inf in lanes that take no part
  float* earlier;   // row_max of the pieces before this one; NaN where they have met NaN
  float* logits;    // [keys of a run][width], of one panel
  float* weights;   // P, [words of the keys of a run][width]; floats take the place of the logits
  float* tile_max;  // of one panel, for each tile of a run
  float* factor;    // of one panel
  std::int32_t* tiles;
  float* scores;  // by entry of tiles
  // Where masses are measured, [entry of the piece][query of the row of tiles]: the sum of a tile's
  // weights, 2^(S - tile_level).
  float* tile_sum;
  float* tile_level;
};

// One row of tiles, or a piece of it, and what it reads. Of the tiles that are listed for the row,
// piece i of n visits [i, i + 1) / n.
struct RowOfTiles {
  std::int64_t batch, head, q_tile;
  PackedHead keys;
  std::int64_t piece;
};

class ForwardLayout {
 public:
  ForwardLayout(Arena& arena, const ForwardProblem& problem, int workers, std::ptrdiff_t width);

  // Fills the list of units with the rows of tiles of some heads, or their pieces: head by head, so
  // that keys and values stay in cache, and the longest first within a head; the pieces of a row
  // one after the other. Returns their number.
  std::int64_t list_units(const ForwardProblem& problem, HeadRange key_heads) const;

  RowOfTiles row_of_tiles(const ForwardProblem& problem,
                          HeadRange key_heads,
                          std::int64_t unit) const;
  ForwardScratch worker_scratch(const ForwardProblem& problem, int worker) const;

  // The same, but out, row_max, row_sum and what is known of tiles are those of a piece, and stay.
  // The pieces of a unit lie one after the other, and so do those of a row.
  ForwardScratch piece_scratch(const ForwardProblem& problem, int worker, std::int64_t piece) const;

  KeyValuePacking packing;
  std::int64_t group;  // key heads at a time

  // Of every row. More than one where there are too few rows to keep many threads busy and they are
  // long; it depends on the shape only, and so do the results, whatever is asked for beside them.
  std::int64_t pieces;
  // Units of work are pieces, but whole rows where the running reference of scores needs their
  // tiles in order.
  std::int64_t pieces_per_unit;

 private:
  struct Unit {
    std::int32_t head;  // batch * heads + head
    std::int32_t q_tile;
    std::int32_t listed;  // active tiles of the row: what the unit costs
    std::int32_t piece;   // the first one
  };

  std::ptrdiff_t width_;
  std::byte* piece_results_ = nullptr;
  std::size_t piece_bytes_ = 0;
  Unit* units_;
  std::byte* scratch_;
  std::size_t scratch_bytes_;  // of one worker
};

}  // namespace saccade::cpu

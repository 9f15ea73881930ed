#pragma once

#include "check/problem.h"
#include "check/random.h"

#include <saccade/tile_mask.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace saccade::cli {

// The numbers of a problem, row-major, all of them exact in its dtype (dlse: in f32), so that the
// reference starts from the same ones. What q_lens and k_lens exclude is NaN.
struct ProblemData {
  std::vector<double> q, k, v;     // [batch, heads, length, head_dim]
  std::vector<double> dout, dlse;  // [batch, heads, q_len, head_dim] and [batch, heads, q_len]
  std::optional<TileMask> tiles;
  std::vector<float> priorities;             // of every tile, a few of them NaN and -inf
  std::vector<std::int32_t> q_lens, k_lens;  // empty = full length
  double max_logit = 0;                      // largest |S| of a valid query and a valid key
};

ProblemData make_data(const Problem& problem);

// A mask with the share `density` of its tiles active, at random, and a fifth of its rows empty.
TileMask random_mask(Random& random, const TileGrid& grid, double density);

}  // namespace saccade::cli

#pragma once

#include "host_tensor.h"

#include <saccade/tile_index.h>

#include <cstdint>
#include <string>

namespace saccade::cli {

enum class MaskKind {
  absent,
  full,
  half,    // random, some rows of tiles empty
  sparse,  // random, most tiles inactive, some rows of tiles empty
};

// One attention problem to check: a function of its seed and number.
struct Problem {
  std::uint64_t seed = 0;
  int number = 0;

  DType dtype = DType::f32;
  TileGrid grid;
  std::int64_t k_heads = 0;
  int head_dim = 0;
  Layout layout = Layout::bhsd;
  MaskKind mask = MaskKind::absent;
  VisitOrder order = VisitOrder::linear;
  double scale = 0;
  double threshold = 0;   // log2 units
  bool has_lens = false;  // q_lens and k_lens are given, with NaN beyond them
  bool has_nan = false;   // one valid element of q, k or v is NaN

  std::int64_t heads_per_k_head() const { return grid.heads / k_heads; }
};

// Problems numbered [0, kProblemsPerRound) have every pair of dtype (f32, f16, bf16) and head_dim
// (16, 32, ... 256) once, as has every further round; all else is drawn at random.
inline constexpr int kProblemsPerRound = 3 * 16;
Problem make_problem(std::uint64_t seed, int number);

std::string describe(const Problem& problem);

}  // namespace saccade::cli

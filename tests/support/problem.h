#pragma once

#include "support/random.h"
#include "support/tensor.h"

#include <saccade/attention.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace saccade::test {

struct ProblemShape {
  std::int64_t batch = 1;
  std::int64_t q_heads = 1;
  std::int64_t k_heads = 1;
  std::int64_t q_len = 1;
  std::int64_t k_len = 1;
  std::int64_t head_dim = 16;
  int block_q = 128;
  int block_k = 64;

  TileGrid grid() const { return {batch, q_heads, q_len, k_len, block_q, block_k}; }
};

// An attention call, forward and backward, that owns its data. Change any field before the call.
struct Problem {
  // q, k, v, dout and dlse are unit normals.
  Problem(const ProblemShape& problem_shape,
          DType dtype,
          Random& random,
          Layout tensor_layout = Layout::bhsd);

  AttentionInputs inputs() const;
  AttentionForwardOptions forward_options() const;
  AttentionBackwardOptions backward_options() const;

  // Gives the samples these lengths and fills everything beyond them with NaN.
  void set_lengths(const std::vector<std::int64_t>& queries, const std::vector<std::int64_t>& keys);
  std::int64_t valid_queries(std::int64_t sample) const;
  std::int64_t valid_keys(std::int64_t sample) const;
  double used_scale() const;       // the default one resolved
  DType statistics_dtype() const;  // of lse, dlse and ref

  // Whether query and key meet in an active tile and are both valid.
  bool attends(std::int64_t sample, std::int64_t head, std::int64_t query, std::int64_t key) const;

  // Whether a tile, counted over [batch, q_heads, q_tiles, k_tiles], is active and not just
  // padding.
  bool computes(std::int64_t tile) const;

  // The same numbers in f64, densely packed: what the reference is asked.
  Problem in_f64() const;
  // The largest |S| that is computed.
  double max_logit() const;
  // What tells this problem from others, in one line.
  std::string describe() const;

  ProblemShape shape;
  Layout layout;
  Tensor q, k, v, dout, dlse;
  Tensor q_lens, k_lens, ref;     // absent at first
  Tensor priorities;              // the same; see visit_strongest_first
  std::optional<TileMask> tiles;  // absent = dense
  std::optional<double> scale;
  std::optional<double> threshold;            // given = marks are asked for
  Measure measure = Measure::largest_weight;  // of scores and marks
  bool wants_scores = false;
  VisitOrder order = VisitOrder::linear;
  bool skips_values = false;
  int panel_rows = 0;
};

// Each tile is active with this probability.
TileMask random_mask(const TileGrid& grid, double active_share, Random& random);

// A reference lse such as an earlier step may have left: that of unit-normal logits, more or less,
// and of a few empty rows.
Tensor random_ref(const Problem& problem, Random& random);

// Makes the order strongest, by priorities as scores of an earlier step may have left them: few
// enough values for ties, -inf, NaN.
void visit_strongest_first(Problem& problem, Random& random);

// Shifts the logits of every column of tiles by a normal of standard deviation 3 of its own, so
// that scores lie on both sides of a threshold. With random q and k alone they are all close to 0.
void spread_scores(Problem& problem, Random& random);

// Everything at once: odd lengths, any layout and dtype, grouped heads, dense, sparse and empty
// rows of tiles, padded samples, scales of any sign and size, all measures, references and orders.
// `seed` decides.
Problem hostile_problem(std::uint64_t seed);

}  // namespace saccade::test

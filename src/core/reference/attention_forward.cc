#include "core/element.h"
#include "core/reference/reference.h"

#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <vector>

// The definition of attention_forward: scalar, in double, one row of tiles after the other.

namespace saccade::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The larger of two numbers; NaN if either is.
double max_or_nan(double a, double b) {
  return std::isnan(a) || std::isnan(b) ? a + b : std::max(a, b);
}

// How far `value` lies above `level`; a value of -inf lies below everything but NaN.
double rise(double value, double level) {
  return value == -kInfinity && !std::isnan(level) ? -kInfinity : value - level;
}

// The logits of one row of tiles, for its valid queries and the valid keys of its listed tiles.
class RowOfTiles {
 public:
  RowOfTiles(const ForwardProblem& problem,
             std::int64_t batch,
             std::int64_t head,
             std::int64_t q_tile,
             const Matrix& q,
             const Matrix& k)
      : problem_(problem),
        first_query(q_tile * problem.grid.block_q),
        queries(std::min<std::int64_t>(q.rows - first_query, problem.grid.block_q)) {
    tiles.resize(problem.grid.k_tiles());
    tiles.resize(problem.list_tiles(batch, head, q_tile, tiles.data()));
    for (const std::int32_t tile : tiles) logits.push_back(tile_logits(tile, q, k));
  }

  std::int64_t first_key(std::size_t entry) const {
    return std::int64_t{tiles[entry]} * problem_.grid.block_k;
  }

  // Whether the values of a tile count in the row of a query.
  bool counts(std::size_t entry, std::int64_t query) const {
    return left_out.empty() || !left_out[entry][query];
  }

  // Row maximum over one tile.
  double tile_max(std::size_t entry, std::int64_t query) const {
    double maximum = -kInfinity;
    for (std::int64_t key = 0; key < logits[entry].columns; ++key) {
      maximum = max_or_nan(maximum, logits[entry][query][key]);
    }
    return maximum;
  }

  double row_max(std::int64_t query) const {
    double maximum = -kInfinity;
    for (std::size_t entry = 0; entry < tiles.size(); ++entry) {
      maximum = max_or_nan(maximum, tile_max(entry, query));
    }
    return maximum;
  }

 private:
  Matrix tile_logits(std::int64_t tile, const Matrix& q, const Matrix& k) const {
    const std::int64_t begin = tile * problem_.grid.block_k;
    Matrix s(queries, std::min<std::int64_t>(k.rows - begin, problem_.grid.block_k));
    for (std::int64_t query = 0; query < s.rows; ++query) {
      for (std::int64_t key = 0; key < s.columns; ++key) {
        double dot = 0;
        for (int d = 0; d < problem_.head_dim; ++d) {
          dot += q[first_query + query][d] * k[begin + key][d];
        }
        s[query][key] = problem_.scale * dot;
      }
    }
    return s;
  }

  const ForwardProblem& problem_;

 public:
  const std::int64_t first_query;
  const std::int64_t queries;
  std::vector<std::int32_t> tiles;          // in visit order
  std::vector<Matrix> logits;               // [entry of tiles][query][key]
  std::vector<std::vector<bool>> left_out;  // [entry of tiles][query]; empty = nothing
};

// log(sum over the row of exp(S)).
double log_sum_exp(const RowOfTiles& row, std::int64_t query) {
  const double maximum = row.row_max(query);
  if (maximum == -kInfinity) return -kInfinity;
  double sum = 0;
  for (std::size_t entry = 0; entry < row.tiles.size(); ++entry) {
    if (!row.counts(entry, query)) continue;
    const Matrix& s = row.logits[entry];
    for (std::int64_t key = 0; key < s.columns; ++key) sum += std::exp(s[query][key] - maximum);
  }
  return maximum + std::log(sum);
}

// out = sum over the row of exp(S - lse) * v.
void weighted_values(
    const RowOfTiles& row, std::int64_t query, double lse, const Matrix& v, double* out) {
  for (std::size_t entry = 0; entry < row.tiles.size(); ++entry) {
    if (!row.counts(entry, query)) continue;
    const Matrix& s = row.logits[entry];
    for (std::int64_t key = 0; key < s.columns; ++key) {
      const double weight = std::exp(s[query][key] - lse);
      const double* value = v[row.first_key(entry) + key];
      for (std::int64_t d = 0; d < v.columns; ++d) out[d] += weight * value[d];
    }
  }
}

// How far the row maxima of a tile lie above the running ones, which include the tile's whole visit
// group: [entry of tiles][query].
std::vector<std::vector<double>> running_rises(const RowOfTiles& row, int group_tiles) {
  std::vector<std::vector<double>> rises(row.tiles.size());
  std::vector<double> running(row.queries, -kInfinity);
  for (std::size_t begin = 0; begin < row.tiles.size(); begin += group_tiles) {
    const std::size_t end = std::min(begin + group_tiles, row.tiles.size());
    for (std::size_t entry = begin; entry < end; ++entry) {
      for (std::int64_t query = 0; query < row.queries; ++query) {
        running[query] = max_or_nan(running[query], row.tile_max(entry, query));
      }
    }
    for (std::size_t entry = begin; entry < end; ++entry) {
      for (std::int64_t query = 0; query < row.queries; ++query) {
        rises[entry].push_back(rise(row.tile_max(entry, query), running[query]));
      }
    }
  }
  return rises;
}

// Scores against the running row maximum.
std::vector<double> running_scores(const std::vector<std::vector<double>>& rises) {
  std::vector<double> scores;
  for (const std::vector<double>& of_tile : rises) {
    scores.push_back(std::accumulate(of_tile.begin(), of_tile.end(), -kInfinity, max_or_nan));
  }
  return scores;
}

double largest_fall(const std::vector<double>& ref, const std::vector<double>& lse) {
  double fall = -kInfinity;
  for (std::size_t query = 0; query < ref.size(); ++query) {
    fall = max_or_nan(fall, ref[query] - lse[query]);
  }
  return fall;
}

// Scores against the lse of an earlier step, corrected by the largest fall of lse since then.
std::vector<double> lse_scores(const RowOfTiles& row, const std::vector<double>& ref, double fall) {
  std::vector<double> scores(row.tiles.size(), -kInfinity);
  for (std::size_t entry = 0; entry < row.tiles.size(); ++entry) {
    for (std::int64_t query = 0; query < row.queries; ++query) {
      scores[entry] = max_or_nan(scores[entry], rise(row.tile_max(entry, query), ref[query]));
    }
    scores[entry] += fall;
  }
  return scores;
}

// Logarithms of the tiles' shares of the softmax, which `lse` normalises.
std::vector<double> mass_scores(const RowOfTiles& row,
                                const std::vector<double>& lse,
                                Measure measure) {
  std::vector<double> scores;
  for (const Matrix& s : row.logits) {
    double largest = 0, sum = 0;
    for (std::int64_t query = 0; query < row.queries; ++query) {
      double mass = 0;
      for (std::int64_t key = 0; lse[query] != -kInfinity && key < s.columns; ++key) {
        mass += std::exp(s[query][key] - lse[query]);
      }
      largest = max_or_nan(largest, mass);
      sum += mass;
    }
    const double mean = sum / static_cast<double>(row.queries);
    scores.push_back(std::log(measure == Measure::largest_mass ? largest : mean));
  }
  return scores;
}

// Natural units -> log2, capped at 0 unless a correction is still to come.
double to_score(double natural, bool is_partial) {
  const double score = natural * std::numbers::log2e;
  return std::isnan(score) || is_partial ? score : std::min(score, 0.0);
}

// Leaves out what is negligible, by visit groups and panels of rows.
void leave_out_values(const ForwardProblem& problem,
                      const std::vector<std::vector<double>>& rises,
                      RowOfTiles& row) {
  row.left_out.assign(row.tiles.size(), std::vector<bool>(row.queries));
  const VisitPlan& plan = problem.plan;
  for (std::size_t begin = 0; begin < row.tiles.size(); begin += plan.group_tiles) {
    const std::size_t end = std::min(begin + plan.group_tiles, row.tiles.size());
    for (std::int64_t first = 0; first < row.queries; first += plan.panel_rows) {
      const std::int64_t last = std::min(first + plan.panel_rows, row.queries);
      double highest = -kInfinity;
      for (std::size_t entry = begin; entry < end; ++entry) {
        for (std::int64_t query = first; query < last; ++query) {
          highest = max_or_nan(highest, rises[entry][query]);
        }
      }
      if (!(to_score(highest, false) <= *problem.threshold)) continue;
      for (std::size_t entry = begin; entry < end; ++entry) {
        std::fill(row.left_out[entry].begin() + first, row.left_out[entry].begin() + last, true);
      }
    }
  }
}

void write_scores(const ForwardProblem& problem,
                  std::int64_t row_index,
                  const RowOfTiles& row,
                  const std::vector<double>& natural_scores) {
  const AttentionForwardOutputs& outputs = problem.outputs;
  for (std::size_t entry = 0; entry < row.tiles.size(); ++entry) {
    const std::int64_t tile = row.tiles[entry];
    const double score = to_score(natural_scores[entry], problem.is_partial);
    if (outputs.scores) {
      store_element(outputs.scores, row_index * problem.grid.k_tiles() + tile, score);
    }
    if (outputs.marks && *problem.threshold > -kInfinity && score <= *problem.threshold) {
      outputs.marks.row(row_index)[tile / 64] |= std::uint64_t{1} << (tile % 64);
    }
  }
}

void forward_row_of_tiles(const ForwardProblem& problem,
                          std::int64_t batch,
                          std::int64_t head,
                          std::int64_t q_tile,
                          const Matrix& q,
                          const Matrix& k,
                          const Matrix& v,
                          Matrix& out,
                          std::vector<double>& lse) {
  RowOfTiles row(problem, batch, head, q_tile, q, k);
  std::vector<std::vector<double>> rises;
  if (problem.has_running_reference()) rises = running_rises(row, problem.plan.group_tiles);
  if (problem.leaves_out_values()) leave_out_values(problem, rises, row);
  std::vector<double> row_lse(row.queries);
  for (std::int64_t query = 0; query < row.queries; ++query) {
    row_lse[query] = log_sum_exp(row, query);
    lse[row.first_query + query] = row_lse[query];
    if (row_lse[query] == -kInfinity) continue;
    weighted_values(row, query, row_lse[query], v, out[row.first_query + query]);
  }
  if (!problem.decides()) return;

  const std::int64_t row_index =
      (batch * problem.grid.heads + head) * problem.grid.q_tiles() + q_tile;
  if (problem.measures_mass()) {
    write_scores(problem, row_index, row, mass_scores(row, row_lse, problem.measure));
  } else if (problem.ref) {
    std::vector<double> ref(row.queries);
    for (std::int64_t query = 0; query < row.queries; ++query) {
      ref[query] =
          load_element(problem.ref, offset_of(problem.ref, batch, head, row.first_query + query));
    }
    write_scores(problem, row_index, row,
                 lse_scores(row, ref, problem.is_partial ? 0.0 : largest_fall(ref, row_lse)));
  } else {
    write_scores(problem, row_index, row, running_scores(rises));
  }
}

// Nothing marked, every score -inf: what tiles that are not computed keep.
void clear_decisions(const ForwardProblem& problem) {
  const AttentionForwardOutputs& outputs = problem.outputs;
  if (outputs.marks) std::fill_n(outputs.marks.words, problem.grid.words(), 0);
  if (outputs.scores) {
    for (std::int64_t i = 0; i < problem.grid.tiles(); ++i) {
      store_element(outputs.scores, i, -kInfinity);
    }
  }
}

}  // namespace

void attention_forward(const ForwardProblem& problem) {
  clear_decisions(problem);
  const TileGrid& grid = problem.grid;
  for (std::int64_t batch = 0; batch < grid.batch; ++batch) {
    for (std::int64_t head = 0; head < grid.heads; ++head) {
      const Matrix q = load_head(problem.q, batch, head, problem.valid_queries(batch));
      const Matrix k =
          load_head(problem.k, batch, problem.key_head(head), problem.valid_keys(batch));
      const Matrix v =
          load_head(problem.v, batch, problem.key_head(head), problem.valid_keys(batch));
      Matrix out(grid.q_len, problem.head_dim);
      std::vector<double> lse(grid.q_len, -kInfinity);
      for (std::int64_t q_tile = 0; q_tile < problem.valid_q_tiles(batch); ++q_tile) {
        forward_row_of_tiles(problem, batch, head, q_tile, q, k, v, out, lse);
      }
      store_head(problem.outputs.out, batch, head, out);
      if (!problem.outputs.lse) continue;
      for (std::int64_t query = 0; query < grid.q_len; ++query) {
        store_element(problem.outputs.lse, offset_of(problem.outputs.lse, batch, head, query),
                      lse[query]);
      }
    }
  }
}

}  // namespace saccade::reference

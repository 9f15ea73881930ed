#include "core/element.h"
#include "core/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

// The definition of pool_tiles and select_tiles.

namespace saccade::reference {
namespace {

// The ranked key tiles of one row of tiles.
class Ranking {
 public:
  Ranking(const SelectProblem& problem, std::int64_t batch, std::int64_t head, std::int64_t q_tile)
      : logits_(problem.valid_k_tiles(batch)), order_(logits_.size()) {
    for (std::size_t tile = 0; tile < logits_.size(); ++tile) {
      double dot = 0;
      for (std::int64_t d = 0; d < problem.head_dim(); ++d) {
        dot +=
            load_element(problem.q, offset_of(problem.q, batch, head, q_tile, d)) *
            load_element(problem.k, offset_of(problem.k, batch, problem.key_head(head), tile, d));
      }
      const double logit = problem.scale * dot;
      logits_[tile] = std::isnan(logit) ? std::numeric_limits<double>::infinity() : logit;
    }
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [this](auto a, auto b) { return logits_[a] > logits_[b]; });
  }

  // Tiles, the highest rank first.
  const std::vector<std::int64_t>& order() const { return order_; }

  // Softmax weights without their denominator. Infinite logits share all of the weight.
  std::vector<double> weights() const {
    std::vector<double> weights;
    for (const double logit : logits_) {
      const double largest = logits_[order_.front()];
      weights.push_back(logit == largest ? 1 : std::exp(logit - largest));
    }
    return weights;
  }

 private:
  std::vector<double> logits_;
  std::vector<std::int64_t> order_;
};

void set_bit(const TileMaskView& mask, std::int64_t row, std::int64_t tile) {
  mask.row(row)[tile / 64] |= std::uint64_t{1} << (tile % 64);
}

std::vector<bool> critical_tiles(const SelectProblem& problem,
                                 const Ranking& ranking,
                                 std::int64_t row) {
  const std::int64_t tiles = static_cast<std::int64_t>(ranking.order().size());
  const std::vector<double> weights = ranking.weights();
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<bool> is_critical(tiles);
  std::int64_t count = 0;
  double mass = 0;
  const auto choose = [&](std::int64_t tile) {
    is_critical[tile] = true;
    mass += weights[tile];
    ++count;
  };
  for (std::int64_t tile = 0; tile < tiles; ++tile) {
    if (problem.always && problem.always.test(row, tile)) choose(tile);
  }
  const std::int64_t wanted = std::max<std::int64_t>(1, problem.options.critical.of(tiles));
  for (const std::int64_t tile : ranking.order()) {
    if (is_critical[tile]) continue;
    if (count >= wanted && mass >= problem.options.critical_mass * total) break;
    choose(tile);
  }
  return is_critical;
}

void classify_row(const SelectProblem& problem,
                  std::int64_t batch,
                  std::int64_t head,
                  std::int64_t q_tile) {
  const Ranking ranking(problem, batch, head, q_tile);
  const std::int64_t tiles = static_cast<std::int64_t>(ranking.order().size());
  if (tiles == 0) return;
  const std::int64_t row = problem.classes.critical.row_index(batch, head, q_tile);
  const std::vector<bool> is_critical = critical_tiles(problem, ranking, row);
  const std::int64_t kept = tiles - problem.options.negligible.of(tiles);
  for (std::int64_t rank = 0; rank < tiles; ++rank) {
    const std::int64_t tile = ranking.order()[rank];
    if (is_critical[tile]) {
      set_bit(problem.classes.critical, row, tile);
    } else if (rank < kept) {
      set_bit(problem.classes.marginal, row, tile);
    }
  }
}

}  // namespace

void pool_tiles(const PoolProblem& problem) {
  const auto& shape = problem.means.shape;
  for (std::int64_t batch = 0; batch < shape[0]; ++batch) {
    for (std::int64_t head = 0; head < shape[1]; ++head) {
      const Matrix x = load_head(problem.x, batch, head, problem.valid_tokens(batch));
      Matrix means(shape[2], shape[3]);
      for (std::int64_t token = 0; token < x.rows; ++token) {
        const std::int64_t tile = token / problem.block;
        for (std::int64_t d = 0; d < x.columns; ++d) means[tile][d] += x[token][d];
      }
      for (std::int64_t tile = 0; tile < means.rows; ++tile) {
        const std::int64_t count = problem.count(batch, tile);
        for (std::int64_t d = 0; count > 0 && d < means.columns; ++d) means[tile][d] /= count;
      }
      store_head(problem.means, batch, head, means);
    }
  }
}

void select_tiles(const SelectProblem& problem) {
  const TileGrid& grid = problem.grid;
  std::fill_n(problem.classes.critical.words, grid.words(), 0);
  std::fill_n(problem.classes.marginal.words, grid.words(), 0);
  for (std::int64_t batch = 0; batch < grid.batch; ++batch) {
    for (std::int64_t head = 0; head < grid.heads; ++head) {
      for (std::int64_t q_tile = 0; q_tile < problem.valid_q_tiles(batch); ++q_tile) {
        classify_row(problem, batch, head, q_tile);
      }
    }
  }
}

}  // namespace saccade::reference

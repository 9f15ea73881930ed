#include "core/element.h"
#include "core/reference/reference.h"

#include <cmath>
#include <limits>
#include <vector>

// The definition of attention_backward: scalar, in double, one query after the other.

namespace saccade::reference {
namespace {

double dot(const double* a, const double* b, int count) {
  double sum = 0;
  for (int i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// target += weight * source.
void accumulate(double weight, const double* source, int count, double* target) {
  for (int i = 0; i < count; ++i) target[i] += weight * source[i];
}

// The rows of one query that its gradients are made of.
struct Query {
  const double* q;
  const double* dout;
  double lse;
  double delta;  // rowsum(dout * out) - dlse
};

// Gradients through one logit.
void backward_logit(const Query& query,
                    const double* k,
                    const double* v,
                    double scale,
                    int head_dim,
                    double* dq,
                    double* dk,
                    double* dv) {
  const double p = std::exp(scale * dot(query.q, k, head_dim) - query.lse);
  const double dp = dot(query.dout, v, head_dim);
  const double ds = p * (dp - query.delta);
  accumulate(p, query.dout, head_dim, dv);
  accumulate(scale * ds, k, head_dim, dq);
  accumulate(scale * ds, query.q, head_dim, dk);
}

void backward_head(const BackwardProblem& problem,
                   std::int64_t batch,
                   std::int64_t head,
                   const Matrix& k,
                   const Matrix& v,
                   Matrix& dk,
                   Matrix& dv) {
  const TileGrid& grid = problem.grid;
  const std::int64_t valid_queries = problem.valid_queries(batch);
  const Matrix q = load_head(problem.q, batch, head, valid_queries);
  const Matrix out = load_head(problem.out, batch, head, valid_queries);
  const Matrix dout = load_head(problem.dout, batch, head, valid_queries);
  Matrix dq(grid.q_len, problem.head_dim);
  std::vector<std::int32_t> tiles(grid.k_tiles());
  for (std::int64_t i = 0; i < valid_queries; ++i) {
    Query query{q[i], dout[i], 0, 0};
    query.lse = load_element(problem.lse, offset_of(problem.lse, batch, head, i));
    if (query.lse == -std::numeric_limits<double>::infinity()) continue;
    query.delta = dot(dout[i], out[i], problem.head_dim);
    if (problem.dlse) {
      query.delta -= load_element(problem.dlse, offset_of(problem.dlse, batch, head, i));
    }
    const std::int64_t q_tile = i / grid.block_q;
    const std::int64_t listed =
        list_row(grid, problem.tile_row(batch, head, q_tile), q_tile, problem.valid_k_tiles(batch),
                 VisitOrder::linear, nullptr, tiles.data());
    for (std::int64_t entry = 0; entry < listed; ++entry) {
      const std::int64_t begin = std::int64_t{tiles[entry]} * grid.block_k;
      const std::int64_t end = std::min<std::int64_t>(begin + grid.block_k, k.rows);
      for (std::int64_t j = begin; j < end; ++j) {
        backward_logit(query, k[j], v[j], problem.scale, problem.head_dim, dq[i], dk[j], dv[j]);
      }
    }
  }
  store_head(problem.outputs.dq, batch, head, dq);
}

}  // namespace

void attention_backward(const BackwardProblem& problem) {
  const TileGrid& grid = problem.grid;
  for (std::int64_t batch = 0; batch < grid.batch; ++batch) {
    for (std::int64_t key_head = 0; key_head < problem.k_heads; ++key_head) {
      const Matrix k = load_head(problem.k, batch, key_head, problem.valid_keys(batch));
      const Matrix v = load_head(problem.v, batch, key_head, problem.valid_keys(batch));
      Matrix dk(grid.k_len, problem.head_dim);
      Matrix dv(grid.k_len, problem.head_dim);
      const std::int64_t group = problem.heads_per_key_head();
      for (std::int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
        backward_head(problem, batch, head, k, v, dk, dv);
      }
      store_head(problem.outputs.dk, batch, key_head, dk);
      store_head(problem.outputs.dv, batch, key_head, dv);
    }
  }
}

}  // namespace saccade::reference

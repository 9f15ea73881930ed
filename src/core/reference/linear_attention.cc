#include "core/element.h"
#include "core/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

// The definition of linear attention, query by query and key by key: the sums that make it linear
// in the number of tokens are left to the backends.

namespace saccade::reference {
namespace {

double dot(const double* a, const double* b, std::int64_t count) {
  return std::inner_product(a, a + count, b, 0.0);
}

// target += weight * source.
void accumulate(double weight, const double* source, std::int64_t count, double* target) {
  for (std::int64_t i = 0; i < count; ++i) target[i] += weight * source[i];
}

// W of one head, or nothing where the map has none.
Matrix load_weight(const TensorView& weight, std::int64_t head) {
  if (!weight) return Matrix(0, 0);
  Matrix matrix(weight.shape[1], weight.shape[2]);
  for (std::int64_t i = 0; i < matrix.rows; ++i) {
    for (std::int64_t j = 0; j < matrix.columns; ++j) {
      matrix[i][j] = load_element(weight, offset_of(weight, head, i, j));
    }
  }
  return matrix;
}

void softmax(double* values, std::int64_t count) {
  double largest = -std::numeric_limits<double>::infinity();
  for (std::int64_t i = 0; i < count; ++i) largest = std::fmax(largest, values[i]);
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += values[i] = std::exp(values[i] - largest);
  for (std::int64_t i = 0; i < count; ++i) values[i] /= sum;
}

// dlogits = J^T dfeatures of features = softmax(logits).
void softmax_backward(const double* features,
                      const double* dfeatures,
                      std::int64_t count,
                      double* dlogits) {
  const double mean = dot(features, dfeatures, count);
  for (std::int64_t i = 0; i < count; ++i) dlogits[i] = features[i] * (dfeatures[i] - mean);
}

// phi of one token.
void map_token(FeatureMap map, const Matrix& weight, const double* x, int head_dim, double* to) {
  switch (map) {
    case FeatureMap::softmax:
      std::copy_n(x, head_dim, to);
      softmax(to, head_dim);
      return;
    case FeatureMap::elu_plus_one:
      for (int i = 0; i < head_dim; ++i) to[i] = x[i] > 0 ? x[i] + 1 : std::exp(x[i]);
      return;
    case FeatureMap::relu:
      for (int i = 0; i < head_dim; ++i) to[i] = x[i] < 0 ? 0 : x[i];  // NaN stays
      return;
    case FeatureMap::hedgehog:
      for (int i = 0; i < head_dim; ++i) {
        to[i] = dot(weight[i], x, head_dim);
        to[head_dim + i] = -to[i];
      }
      softmax(to, 2 * head_dim);
      return;
  }
}

// dx = J^T dfeatures of one token; adds to the gradient of W.
void map_token_backward(FeatureMap map,
                        const Matrix& weight,
                        const double* x,
                        const double* features,
                        const double* dfeatures,
                        int head_dim,
                        double* dx,
                        Matrix& dweight) {
  switch (map) {
    case FeatureMap::softmax:
      softmax_backward(features, dfeatures, head_dim, dx);
      return;
    case FeatureMap::elu_plus_one:
      for (int i = 0; i < head_dim; ++i) dx[i] = dfeatures[i] * (x[i] > 0 ? 1 : std::exp(x[i]));
      return;
    case FeatureMap::relu:
      for (int i = 0; i < head_dim; ++i) dx[i] = x[i] > 0 ? dfeatures[i] : 0;
      return;
    case FeatureMap::hedgehog: {
      std::vector<double> dlogits(2 * head_dim);
      softmax_backward(features, dfeatures, 2 * head_dim, dlogits.data());
      for (int i = 0; i < head_dim; ++i) {
        const double dprojected = dlogits[i] - dlogits[head_dim + i];
        accumulate(dprojected, weight[i], head_dim, dx);
        accumulate(dprojected, x, head_dim, dweight[i]);
      }
      return;
    }
  }
}

// Tokens of one head and their features.
struct MappedHead {
  MappedHead(const LinearProblem& problem,
             const TensorView& tensor,
             const TensorView& weights,
             std::int64_t batch,
             std::int64_t head,
             std::int64_t tokens)
      : map(problem.feature_map),
        weight(load_weight(weights, head)),
        x(load_head(tensor, batch, head, tokens)),
        features(tokens, problem.features()) {
    for (std::int64_t token = 0; token < tokens; ++token) {
      map_token(map, weight, x[token], problem.head_dim, features[token]);
    }
  }

  // Gradients of the tokens from those of their features; adds to the gradient of W. Tokens that
  // meet no other have none, whatever they hold.
  Matrix backward(const Matrix& dfeatures,
                  const std::vector<bool>& is_met,
                  std::int64_t length,
                  Matrix& dweight) const {
    Matrix dx(length, x.columns);
    for (std::int64_t token = 0; token < x.rows; ++token) {
      if (!is_met[token]) continue;
      map_token_backward(map, weight, x[token], features[token], dfeatures[token],
                         static_cast<int>(x.columns), dx[token], dweight);
    }
    return dx;
  }

  FeatureMap map;
  Matrix weight;
  Matrix x;
  Matrix features;
};

MappedHead map_queries(const LinearProblem& problem, std::int64_t batch, std::int64_t head) {
  return {problem, problem.q, problem.q_weight, batch, head, problem.valid_queries(batch)};
}

MappedHead map_keys(const LinearProblem& problem, std::int64_t batch, std::int64_t key_head) {
  return {problem, problem.k, problem.k_weight, batch, key_head, problem.valid_keys(batch)};
}

// Calls f(key) for every valid key that shares an active tile with the query.
template <typename F>
void for_each_key(const LinearProblem& problem,
                  std::int64_t batch,
                  std::int64_t head,
                  std::int64_t query,
                  F&& f) {
  const TileGrid& grid = problem.grid;
  const std::uint64_t* row = problem.tile_row(batch, head, query / grid.block_q);
  for (std::int64_t key = 0; key < problem.valid_keys(batch); ++key) {
    const std::int64_t tile = key / grid.block_k;
    if (row == nullptr || (row[tile / 64] >> (tile % 64) & 1)) f(key);
  }
}

double denominator(const LinearProblem& problem,
                   std::int64_t batch,
                   std::int64_t head,
                   std::int64_t query,
                   const Matrix& q,
                   const Matrix& k) {
  double sum = problem.epsilon;
  for_each_key(problem, batch, head, query,
               [&](std::int64_t key) { sum += dot(q[query], k[key], q.columns); });
  return sum;
}

// Writes the gradients of one head, or adds them to what is there.
void store_gradient(const LinearBackwardProblem& problem,
                    const TensorView& to,
                    std::int64_t batch,
                    std::int64_t head,
                    Matrix gradient) {
  if (problem.adds_gradients) {
    const Matrix before = load_head(to, batch, head, gradient.rows);
    accumulate(1, before.values.data(), std::ssize(before.values), gradient.values.data());
  }
  store_head(to, batch, head, gradient);
}

// Gradients of one query head; adds to those of its key head.
void backward_head(const LinearBackwardProblem& problem,
                   std::int64_t batch,
                   std::int64_t head,
                   const MappedHead& k,
                   const Matrix& v,
                   std::vector<bool>& key_is_met,
                   Matrix& dk_features,
                   Matrix& dv,
                   Matrix& dq_weight) {
  const MappedHead q = map_queries(problem, batch, head);
  const Matrix out = load_head(problem.out, batch, head, q.x.rows);
  const Matrix dout = load_head(problem.dout, batch, head, q.x.rows);
  Matrix dq_features(q.features.rows, q.features.columns);
  std::vector<bool> query_is_met(q.x.rows);
  for (std::int64_t query = 0; query < q.x.rows; ++query) {
    for_each_key(problem, batch, head, query,
                 [&](std::int64_t key) { query_is_met[query] = key_is_met[key] = true; });
    const double sum = denominator(problem, batch, head, query, q.features, k.features);
    if (sum == 0) continue;
    const double delta = dot(dout[query], out[query], out.columns);
    for_each_key(problem, batch, head, query, [&](std::int64_t key) {
      const double weight = dot(q.features[query], k.features[key], q.features.columns) / sum;
      const double dproduct = (dot(dout[query], v[key], v.columns) - delta) / sum;
      accumulate(dproduct, k.features[key], k.features.columns, dq_features[query]);
      accumulate(dproduct, q.features[query], q.features.columns, dk_features[key]);
      accumulate(weight, dout[query], v.columns, dv[key]);
    });
  }
  store_gradient(problem, problem.gradients.dq, batch, head,
                 q.backward(dq_features, query_is_met, problem.grid.q_len, dq_weight));
}

// Gradients of W, one matrix for each head.
struct WeightGradients {
  WeightGradients(const TensorView& weight, std::int64_t heads)
      : matrices(heads, weight ? Matrix(weight.shape[1], weight.shape[2]) : Matrix(0, 0)) {}

  void store(const TensorView& to) const {
    for (std::size_t head = 0; to && head < matrices.size(); ++head) {
      const Matrix& matrix = matrices[head];
      for (std::int64_t i = 0; i < matrix.rows; ++i) {
        for (std::int64_t j = 0; j < matrix.columns; ++j) {
          store_element(to, offset_of(to, head, i, j), matrix[i][j]);
        }
      }
    }
  }

  std::vector<Matrix> matrices;
};

}  // namespace

void linear_forward(const LinearForwardProblem& problem) {
  for (std::int64_t batch = 0; batch < problem.grid.batch; ++batch) {
    for (std::int64_t head = 0; head < problem.grid.heads; ++head) {
      const std::int64_t key_head = problem.key_head(head);
      const Matrix q = map_queries(problem, batch, head).features;
      const Matrix k = map_keys(problem, batch, key_head).features;
      const Matrix v = load_head(problem.v, batch, key_head, k.rows);
      Matrix out(problem.grid.q_len, problem.head_dim);
      for (std::int64_t query = 0; query < q.rows; ++query) {
        const double sum = denominator(problem, batch, head, query, q, k);
        if (sum == 0) continue;
        for_each_key(problem, batch, head, query, [&](std::int64_t key) {
          accumulate(dot(q[query], k[key], q.columns) / sum, v[key], v.columns, out[query]);
        });
      }
      store_head(problem.out, batch, head, out);
    }
  }
}

void linear_backward(const LinearBackwardProblem& problem) {
  const LinearGradients& gradients = problem.gradients;
  WeightGradients dq_weights(problem.q_weight, problem.grid.heads);
  WeightGradients dk_weights(problem.k_weight, problem.k_heads);
  for (std::int64_t batch = 0; batch < problem.grid.batch; ++batch) {
    for (std::int64_t key_head = 0; key_head < problem.k_heads; ++key_head) {
      const MappedHead k = map_keys(problem, batch, key_head);
      const Matrix v = load_head(problem.v, batch, key_head, k.x.rows);
      std::vector<bool> key_is_met(k.x.rows);
      Matrix dk_features(k.features.rows, k.features.columns);
      Matrix dv(problem.grid.k_len, problem.head_dim);
      const std::int64_t group = problem.heads_per_key_head();
      for (std::int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
        backward_head(problem, batch, head, k, v, key_is_met, dk_features, dv,
                      dq_weights.matrices[head]);
      }
      store_gradient(
          problem, gradients.dk, batch, key_head,
          k.backward(dk_features, key_is_met, problem.grid.k_len, dk_weights.matrices[key_head]));
      store_gradient(problem, gradients.dv, batch, key_head, dv);
    }
  }
  dq_weights.store(gradients.dq_weight);
  dk_weights.store(gradients.dk_weight);
}

}  // namespace saccade::reference

#include "support/token_logits.h"

#include <limits>
#include <numeric>

namespace saccade::test {

Matrix token_logits(const Problem& problem, std::int64_t sample, std::int64_t head) {
  const ProblemShape& shape = problem.shape;
  const std::int64_t key_head = head * shape.k_heads / shape.q_heads;
  const Matrix q = load_head(problem.q.view(), sample, head, shape.q_len);
  const Matrix k = load_head(problem.k.view(), sample, key_head, shape.k_len);
  Matrix logits(shape.q_len, shape.k_len);
  for (std::int64_t i = 0; i < shape.q_len; ++i) {
    for (std::int64_t j = 0; j < shape.k_len; ++j) {
      const double dot = std::inner_product(q[i], q[i] + shape.head_dim, k[j], 0.0);
      logits[i][j] = problem.attends(sample, head, i, j) ? problem.used_scale() * dot
                                                         : -std::numeric_limits<double>::infinity();
    }
  }
  return logits;
}

}  // namespace saccade::test

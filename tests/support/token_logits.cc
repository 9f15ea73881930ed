#include "support/token_logits.h"

#include <limits>

namespace saccade::test {

Matrix token_logits(const Problem& problem, std::int64_t sample, std::int64_t head) {
  const ProblemShape& shape = problem.shape;
  const std::int64_t key_head = head * shape.k_heads / shape.q_heads;
  Matrix logits(shape.q_len, shape.k_len);
  for (std::int64_t i = 0; i < shape.q_len; ++i) {
    for (std::int64_t j = 0; j < shape.k_len; ++j) {
      logits[i][j] = -std::numeric_limits<double>::infinity();
      if (!problem.attends(sample, head, i, j)) continue;
      double dot = 0;
      for (std::int64_t d = 0; d < shape.head_dim; ++d) {
        dot += problem.q.get(problem.q.index(sample, head, i, d)) *
               problem.k.get(problem.k.index(sample, key_head, j, d));
      }
      logits[i][j] = problem.used_scale() * dot;
    }
  }
  return logits;
}

}  // namespace saccade::test

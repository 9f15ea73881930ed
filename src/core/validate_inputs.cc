#include "core/validate_inputs.h"

#include <saccade/error.h>

#include <fmt/format.h>

namespace saccade {

void require_inputs(const TensorView& q, const TensorView& k, const TensorView& v) {
  require_present("q", q, 4);
  if (q.dtype == DType::i32) {
    throw InvalidArgument("q has dtype i32, but needs f16, bf16, f32 or f64");
  }
  for (int i = 0; i < 4; ++i) {
    if (q.shape[i] < 1) {
      throw InvalidArgument(
          fmt::format("q has extent {} in dimension {}, but needs at least 1", q.shape[i], i));
    }
  }
  require_present("k", k, 4);
  if (k.shape[1] < 1 || k.shape[2] < 1) {
    throw InvalidArgument(fmt::format("k has {} heads and {} tokens, but needs at least 1 of each",
                                      k.shape[1], k.shape[2]));
  }
  require_tensor("k", k, q.dtype, {q.shape[0], k.shape[1], k.shape[2], q.shape[3]});
  require_tensor("v", v, q.dtype, {q.shape[0], k.shape[1], k.shape[2], q.shape[3]});
  require_head_counts(q.shape[1], k.shape[1]);
  require_unit_stride("q", q);
  require_unit_stride("k", k);
  require_unit_stride("v", v);
}

void require_rows(std::string_view name, const TensorView& tensor, const AttentionProblem& like) {
  const TileGrid& grid = like.grid;
  require_tensor(name, tensor, like.q.dtype, {grid.batch, grid.heads, grid.q_len, like.head_dim});
  require_unit_stride(name, tensor);
}

void require_gradient(std::string_view name, const TensorView& gradient, const TensorView& of) {
  require_tensor(name, gradient, of.dtype, {of.shape[0], of.shape[1], of.shape[2], of.shape[3]});
  require_unit_stride(name, gradient);
  require_distinct_elements(name, gradient);
}

}  // namespace saccade

#pragma once

#include <saccade/context.h>
#include <saccade/tensor_view.h>

#include <span>

namespace saccade {

// Attention of the same queries over one of several disjoint sets of keys, or its gradient.
struct Partial {
  TensorView out{};  // [batch, heads, q_len, head_dim], unit stride in head_dim
  TensorView lse{};  // f32 (f64 with f64 out) [batch, heads, q_len], natural log
};

// Attention over the union of the sets:
//   lse = log(sum_i exp(lse_i)),  out = sum_i exp(lse_i - lse) * out_i.
// A partial whose lse is -inf has no weight and its out is not read; where all are -inf, out is 0
// and lse -inf. At least one partial; all share merged's shapes and dtypes. `merged` may be one of
// the partials, else it may not overlap them. Throws InvalidArgument.
void merge_partials(const Context& context,
                    std::span<const Partial> partials,
                    const Partial& merged);

// Gradient of merge_partials, given its inputs, its result and the gradient of that
// (`dmerged.lse` absent = zero). With w_i = exp(lse_i - lse):
//   dout_i = w_i * dout,  dlse_i = w_i * (dlse + dot(dout, out_i - out)).
// Writes gradients[i].out and gradients[i].lse for every i. Throws InvalidArgument.
void merge_partials_backward(const Context& context,
                             std::span<const Partial> partials,
                             const Partial& merged,
                             const Partial& dmerged,
                             std::span<const Partial> gradients);

}  // namespace saccade

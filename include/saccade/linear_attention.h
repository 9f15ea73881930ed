#pragma once

#include <saccade/context.h>
#include <saccade/tensor_view.h>
#include <saccade/tile_mask.h>

#include <cstddef>
#include <string_view>

// Linear attention over the tiles of a mask, forward and backward: the branch that SLA puts beside
// the critical tiles (arXiv 2509.24006 eq. 5, Algorithms 1 and 2 with their slips corrected).
//
// With phi a map of a token's head_dim elements to features that are not negative, and the sums
// over the keys s that share an active tile with query t:
//   out[t] = sum_s (phi(q[t]) . phi(k[s])) v[s] / (epsilon + sum_s phi(q[t]) . phi(k[s])).
// A row whose denominator is 0 (no active tile, or features that are all 0) gives 0.
//
// Shapes, strides, dtypes and lengths are those of attention.h. NaN in an input propagates. Host
// calls return when the work is done. Nothing is written before all checks have passed.

namespace saccade {

enum class FeatureMap {
  softmax,       // over the elements of the token
  elu_plus_one,  // x + 1 above 0, e^x below
  relu,
  hedgehog,  // softmax over the 2 * head_dim elements of [W x, -W x], with W learnt
};

std::string_view name_of(FeatureMap feature_map);

struct LinearInputs {
  TensorView q{}, k{}, v{};
  TileMaskView tiles{};           // SLA: the marginal ones; absent = every query meets every key
  TensorView q_lens{}, k_lens{};  // i32 [batch]; absent = full length

  // W of the queries and of the keys, for hedgehog and for it only: f32 (f64 with f64 inputs),
  // densely packed [heads, head_dim, head_dim]; row i of W makes features i and head_dim + i. One
  // tensor may be both where there are as many key heads as query heads.
  TensorView q_weight{}, k_weight{};
};

struct LinearOptions {
  FeatureMap feature_map = FeatureMap::softmax;
  double epsilon = 0;  // at least 0, finite
  // Backward: adds to what dq, dk and dv hold instead of replacing it. In 16-bit dtypes the sum is
  // rounded once more.
  bool adds_gradients = false;
};

// Bytes of workspace that the call needs: (head_dim + 1) * features floats, rounded up to whole
// vectors, for every block of keys (a tile, or 1,024 tokens without tiles) of a bounded group of
// heads, plus 32 times that (once without tiles) per worker. Throws like linear_forward.
std::size_t linear_forward_workspace_size(const Context& context,
                                          const LinearInputs& inputs,
                                          const LinearOptions& options);

// out: shape and dtype of q, unit stride in head_dim. Rows beyond q_lens become 0. Same bits for
// any number of threads. Throws InvalidArgument, or Unsupported with the reason.
void linear_forward(const Context& context,
                    const LinearInputs& inputs,
                    const LinearOptions& options,
                    const TensorView& out);

struct LinearBackwardInputs {
  LinearInputs forward{};  // what the forward call was given
  TensorView out{};        // what it wrote
  TensorView dout{};       // gradient of out: its shape and dtype, unit stride in head_dim
};

// Shapes and dtypes of q, k, v and the weights. Every element is written; those of rows and keys
// beyond q_lens and k_lens become 0. The weights' gradients are present where the weights are;
// where one tensor was both weights, its gradient is the sum of the two.
struct LinearGradients {
  TensorView dq{}, dk{}, dv{};
  TensorView dq_weight{}, dk_weight{};
};

// Bytes of workspace that the call needs: what linear_forward needs, and the same for every block
// of queries; with weights, a few of their gradients more. Throws like linear_backward.
std::size_t linear_backward_workspace_size(const Context& context,
                                           const LinearBackwardInputs& inputs,
                                           const LinearOptions& options);

// Gradients of linear_forward. relu has gradient 0 at 0; rows whose denominator is 0, and tokens
// that share no active tile with a valid one, have none, whatever they hold.
// Same bits for any number of threads. Throws InvalidArgument, or Unsupported with the reason.
void linear_backward(const Context& context,
                     const LinearBackwardInputs& inputs,
                     const LinearOptions& options,
                     const LinearGradients& gradients);

}  // namespace saccade

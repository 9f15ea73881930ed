#include <saccade/saccade.h>

#include <cmath>
#include <cstdio>
#include <vector>

// Attention over the second of two key tiles, with a result that is known in closed form: all keys
// are zero, so every row of `out` is the mean of the active values and every lse is log(64).

namespace {

constexpr int kQueries = 128, kKeys = 128, kHeadDim = 16, kBlockK = 64;

bool is_close(float value, double expected) {
  return std::abs(value - expected) < 1e-4;
}

}  // namespace

int main() {
  std::vector<float> q(kQueries * kHeadDim, 1.0f), k(kKeys * kHeadDim, 0.0f), v(kKeys * kHeadDim);
  std::vector<float> out(kQueries * kHeadDim, NAN), lse(kQueries, NAN);
  for (int key = 0; key < kKeys; ++key) {
    for (int d = 0; d < kHeadDim; ++d) v[key * kHeadDim + d] = static_cast<float>(key + d);
  }

  const auto tensor = [](const std::vector<float>& data, int rows) {
    return saccade::TensorView::contiguous(data.data(), saccade::DType::f32,
                                           {1, 1, rows, kHeadDim});
  };
  saccade::TileMask tiles({.batch = 1,
                           .heads = 1,
                           .q_len = kQueries,
                           .k_len = kKeys,
                           .block_q = 128,
                           .block_k = kBlockK});
  tiles.set(0, 0, 0, 1);

  saccade::attention_forward(
      {},
      {.q = tensor(q, kQueries),
       .k = tensor(k, kKeys),
       .v = tensor(v, kKeys),
       .tiles = tiles.view()},
      {},
      {.out = tensor(out, kQueries),
       .lse = saccade::TensorView::contiguous(lse.data(), saccade::DType::f32, {1, 1, kQueries})});

  // The weights are exp(0) = 1 and the sums small integers, so a few f32 roundings remain,
  // each at most 128 * 2^-24 = 8e-6.
  constexpr double kMeanActiveKey = kBlockK + (kBlockK - 1) / 2.0;
  for (int row = 0; row < kQueries; ++row) {
    for (int d = 0; d < kHeadDim; ++d) {
      if (!is_close(out[row * kHeadDim + d], kMeanActiveKey + d)) {
        std::printf("out[%d, %d] = %g, expected %g\n", row, d, out[row * kHeadDim + d],
                    kMeanActiveKey + d);
        return 1;
      }
    }
    if (!is_close(lse[row], std::log(kBlockK))) {
      std::printf("lse[%d] = %g, expected %g\n", row, lse[row], std::log(kBlockK));
      return 1;
    }
  }
}

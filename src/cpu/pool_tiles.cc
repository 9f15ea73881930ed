#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/pool_tiles.cc"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/element.h"
#include "cpu/pack-inl.h"

#include <hwy/highway.h>

#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

// Features summed up at a time: a cache line of f32.
constexpr std::ptrdiff_t kColumns = 16;

// mean[d] = sum over rows of rows[row][d] / row_count
template <typename T>
void mean_of_rows(const T* rows,
                  std::ptrdiff_t row_stride,
                  std::ptrdiff_t row_count,
                  std::ptrdiff_t head_dim,
                  float* mean) {
  const F32x4 d4;
  const V32x4 count = hn::Set(d4, static_cast<float>(std::max<std::ptrdiff_t>(row_count, 1)));
  for (std::ptrdiff_t first = 0; first < head_dim; first += kColumns) {
    V32x4 sums[kColumns / 4] = {hn::Zero(d4), hn::Zero(d4), hn::Zero(d4), hn::Zero(d4)};
    for (std::ptrdiff_t row = 0; row < row_count; ++row) {
      const T* from = rows + row * row_stride + first;
      for (std::ptrdiff_t i = 0; i < kColumns / 4; ++i) {
        sums[i] = hn::Add(sums[i], load4(from + 4 * i));
      }
    }
    for (std::ptrdiff_t i = 0; i < kColumns / 4; ++i) {
      store4(hn::Div(sums[i], count), mean + first + 4 * i);
    }
  }
}

void pool_tile(const PoolProblem& problem,
               std::int64_t batch,
               std::int64_t head,
               std::int64_t tile) {
  const std::int64_t count = problem.count(batch, tile);
  with_element(problem.x.dtype, [&](auto* element) HWY_ATTR {
    using T = std::remove_pointer_t<decltype(element)>;
    const T* rows = count == 0 ? nullptr : row_of<T>(problem.x, batch, head, tile * problem.block);
    mean_of_rows(rows, problem.x.strides[2], count, problem.x.shape[3],
                 row_of<float>(problem.means, batch, head, tile));
  });
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cpu {
namespace {

HWY_EXPORT(pool_tile);

// Tiles per unit of work: a few dozen microseconds.
constexpr std::int64_t kTilesPerUnit = 32;

}  // namespace

void pool_tiles(const Execution& execution, const PoolProblem& problem) {
  const std::int64_t heads = problem.x.shape[1];
  const std::int64_t tiles = problem.x.shape[0] * heads * problem.tiles();
  const std::int64_t units = (tiles + kTilesPerUnit - 1) / kTilesPerUnit;
  for_each_unit(execution, units, [&](int, std::int64_t unit) {
    const std::int64_t end = std::min(tiles, (unit + 1) * kTilesPerUnit);
    for (std::int64_t i = unit * kTilesPerUnit; i < end; ++i) {
      const std::int64_t head_of_batch = i / problem.tiles();
      HWY_DYNAMIC_DISPATCH(pool_tile)
      (problem, head_of_batch / heads, head_of_batch % heads, i % problem.tiles());
    }
  });
}

}  // namespace saccade::cpu

#endif

#include "core/require.h"
#include "core/validate.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace saccade {
namespace {

void require_float(std::string_view name, const TensorView& tensor) {
  if (tensor.dtype != DType::i32) return;
  throw InvalidArgument(fmt::format("{} has dtype i32, but needs f16, bf16, f32 or f64", name));
}

void require_extents(std::string_view name, const TensorView& tensor) {
  for (int i = 0; i < tensor.rank; ++i) {
    if (tensor.shape[i] < 1) {
      throw InvalidArgument(fmt::format("{} has extent {} in dimension {}, but needs at least 1",
                                        name, tensor.shape[i], i));
    }
  }
}

// Averages of q or k: one row per tile.
void require_means(std::string_view name,
                   const TensorView& means,
                   DType dtype,
                   std::int64_t batch,
                   std::int64_t heads,
                   std::int64_t tiles) {
  require_tensor(name, means, dtype, {batch, heads, tiles, means.shape[3]});
  require_unit_stride(name, means);
}

}  // namespace

TileShare TileShare::of_ratio(double ratio) {
  require_share("the ratio of tiles", ratio);
  return {ratio, -1};
}

TileShare TileShare::of_count(std::int64_t count) {
  if (count >= 0) return {0, count};
  throw InvalidArgument(fmt::format("the count of tiles is {}, but must be at least 0", count));
}

std::int64_t TileShare::of(std::int64_t tiles) const {
  if (count_ >= 0) return std::min(count_, tiles);
  return static_cast<std::int64_t>(ratio_ * static_cast<double>(tiles));
}

PoolProblem validate_pool(const PoolTilesInputs& inputs,
                          const PoolTilesOptions& options,
                          const TensorView& means) {
  const TensorView& x = inputs.x;
  require_present("x", x, 4);
  require_float("x", x);
  require_extents("x", x);
  require_unit_stride("x", x);
  require_lengths("lens", inputs.lens, x.shape[0], x.shape[2]);
  if (options.block != 64 && options.block != 128) {
    throw InvalidArgument(fmt::format("block is {}, but must be 64 or 128; the nearest is {}",
                                      options.block, options.block < 96 ? 64 : 128));
  }
  require_tensor(
      "means", means, x.dtype == DType::f64 ? DType::f64 : DType::f32,
      {x.shape[0], x.shape[1], (x.shape[2] + options.block - 1) / options.block, x.shape[3]});
  require_packed("means", means);
  return {.x = x, .lens = inputs.lens, .means = means, .block = options.block};
}

SelectProblem validate(const SelectTilesInputs& inputs, const SelectTilesOptions& options) {
  const TileGrid& grid = inputs.grid;
  validate(grid);
  const TensorView& q = inputs.q;
  require_present("q", q, 4);
  if (q.dtype != DType::f32 && q.dtype != DType::f64) {
    throw InvalidArgument(
        fmt::format("q has dtype {}, but means are f32 or f64: see pool_tiles", name_of(q.dtype)));
  }
  require_extents("q", q);
  require_means("q", q, q.dtype, grid.batch, grid.heads, grid.q_tiles());
  require_present("k", inputs.k, 4);
  require_extents("k", inputs.k);
  require_means("k", inputs.k, q.dtype, grid.batch, inputs.k.shape[1], grid.k_tiles());
  if (inputs.k.shape[3] != q.shape[3]) {
    throw InvalidArgument(fmt::format("k has head_dim {} and q has {}; they must be equal",
                                      inputs.k.shape[3], q.shape[3]));
  }
  require_head_counts(grid.heads, inputs.k.shape[1]);
  require_lengths("q_lens", inputs.q_lens, grid.batch, grid.q_len);
  require_lengths("k_lens", inputs.k_lens, grid.batch, grid.k_len);
  if (inputs.always) require_mask("always", inputs.always, grid);
  require_share("critical_mass", options.critical_mass);
  return {.grid = grid,
          .q = q,
          .k = inputs.k,
          .q_lens = inputs.q_lens,
          .k_lens = inputs.k_lens,
          .always = inputs.always,
          .scale = resolve_scale(options.scale, q.shape[3]),
          .options = options,
          .classes = {}};
}

void attach_outputs(SelectProblem& problem, const TileClasses& classes) {
  require_mask("classes.critical", classes.critical, problem.grid);
  require_mask("classes.marginal", classes.marginal, problem.grid);
  problem.classes = classes;
}

}  // namespace saccade

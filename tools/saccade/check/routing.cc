#include "check/comparison.h"
#include "check/primitives.h"

#include <saccade/routing.h>

#include <algorithm>
#include <cmath>
#include <optional>

namespace saccade::cli {
namespace {

// A sum of at most 128 tokens in f32, over the largest of them.
constexpr double kMeanCap = 128 * 0x1p-24;

HostTensor pool(Backend backend,
                const HostTensor& x,
                std::span<const std::int32_t> lens,
                std::int64_t tiles,
                int block) {
  const auto& shape = x.view().shape;
  const DType dtype = x.view().dtype == DType::f64 ? DType::f64 : DType::f32;
  HostTensor means(dtype, {shape[0], shape[1], tiles, shape[3]});
  pool_tiles({.backend = backend}, {.x = x.view(), .lens = lens_view(lens)}, {.block = block},
             means.view());
  return means;
}

// More than 0, so that errors can be divided by it.
double largest_finite(std::span<const double> values) {
  double largest = 1e-30;
  for (const double value : values) {
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  return largest;
}

HostTensor tensor_of(const Problem& problem,
                     DType dtype,
                     std::int64_t heads,
                     std::int64_t length,
                     std::span<const double> values) {
  HostTensor tensor(dtype, {problem.grid.batch, heads, length, problem.head_dim}, problem.layout);
  tensor.fill(values);
  return tensor;
}

SelectTilesOptions draw_options(Random& random) {
  SelectTilesOptions options;
  options.critical = TileShare::of_ratio(random.pick({0.0, 0.05, 0.3, 1.0}));
  options.critical_mass = random.chance(0.5) ? 0 : random.uniform(0, 1);
  options.negligible = TileShare::of_count(random.integer(0, 10));
  return options;
}

struct Classes {
  explicit Classes(const TileGrid& grid)
      : critical(TileMask::full(grid)), marginal(TileMask::full(grid)) {}

  TileMask critical, marginal;
};

}  // namespace

// Means within the rounding of their sums; classes are exact.
std::vector<Finding> check_routing(const Problem& problem,
                                   const ProblemData& data,
                                   Backend backend) {
  const TileGrid& grid = problem.grid;
  std::vector<Finding> findings;
  const auto check_means = [&](const char* name, std::int64_t heads, std::int64_t length,
                               std::span<const double> values, std::span<const std::int32_t> lens,
                               std::int64_t tiles, int block) {
    HostTensor got =
        pool(backend, tensor_of(problem, problem.dtype, heads, length, values), lens, tiles, block);
    const HostTensor want =
        pool(Backend::reference, tensor_of(problem, DType::f64, heads, length, values), lens, tiles,
             block);
    findings.push_back({Quantity::means, name,
                        max_difference(got.values(), want.values()) / largest_finite(values),
                        kMeanCap});
    return got;
  };
  const HostTensor q =
      check_means("q", grid.heads, grid.q_len, data.q, data.q_lens, grid.q_tiles(), grid.block_q);
  const HostTensor k = check_means("k", problem.k_heads, grid.k_len, data.k, data.k_lens,
                                   grid.k_tiles(), grid.block_k);

  Random random(problem.seed, problem.number, Random::Stream::routing);
  const SelectTilesOptions options = draw_options(random);
  std::optional<TileMask> always;
  if (random.chance(0.5)) always = random_mask(random, grid, 0.1);
  const auto select = [&](Backend on) {
    Classes classes(grid);
    select_tiles({.backend = on},
                 {.grid = grid,
                  .q = q.view(),
                  .k = k.view(),
                  .q_lens = lens_view(data.q_lens),
                  .k_lens = lens_view(data.k_lens),
                  .always = always ? always->view() : TileMaskView{}},
                 options, {classes.critical.view(), classes.marginal.view()});
    return classes;
  };
  const Classes got = select(backend);
  const Classes want = select(Backend::reference);
  const std::int64_t wrong = count_different_tiles(got.critical, want.critical) +
                             count_different_tiles(got.marginal, want.marginal);
  findings.push_back({Quantity::classes, "", static_cast<double>(wrong), 0});
  return findings;
}

}  // namespace saccade::cli

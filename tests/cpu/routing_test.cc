#include "support/random.h"
#include "support/selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Not close: the same. Every backend sums up the same products in the same order.
TEST(RoutingTest, DecisionsAreThoseOfTheReference) {
  Random random(7);
  for (int round = 0; round < 200; ++round) {
    const std::int64_t k_heads = random.integer(1, 2);
    const TileGrid grid{random.integer(1, 2),   k_heads * random.integer(1, 3),
                        random.length(5000),    random.length(10000),
                        random.pick({64, 128}), random.pick({64, 128})};
    Selection selection(grid, k_heads, 16 * random.integer(1, 8));
    const bool has_ties = random.chance(0.3);
    const auto value = [&] {
      if (random.chance(0.001)) return random.pick({NAN * 1.0, kInfinity, -kInfinity});
      return has_ties ? std::round(random.normal()) : 0.3 * random.normal() + 5;
    };
    selection.q.generate(value);
    selection.k.generate(value);
    if (random.chance(0.5)) {
      std::vector<std::int64_t> q_lens, k_lens;
      for (std::int64_t b = 0; b < grid.batch; ++b) {
        q_lens.push_back(random.integer(0, grid.q_len));
        k_lens.push_back(random.integer(0, grid.k_len));
      }
      selection.q_lens = lengths(q_lens);
      selection.k_lens = lengths(k_lens);
    }
    if (random.chance(0.5)) {
      selection.always.emplace(grid);
      selection.always->protect(
          {}, std::vector<TokenRange>{{0, std::min<std::int64_t>(grid.k_len, 100)}});
    }
    selection.options = {.critical = TileShare::of_ratio(random.uniform()),
                         .critical_mass = random.chance(0.5) ? random.uniform() : 0,
                         .negligible = TileShare::of_count(random.integer(0, 20))};
    Selection reference = selection;
    selection.run({.backend = Backend::cpu});
    reference.run({.backend = Backend::reference});
    ASSERT_EQ(selection.critical, reference.critical) << "round " << round;
    ASSERT_EQ(selection.marginal, reference.marginal) << "round " << round;
  }
}

TEST(RoutingTest, MeansAreThoseOfTheReference) {
  Random random(8);
  for (int round = 0; round < 100; ++round) {
    const DType dtype = random.pick({DType::f16, DType::bf16, DType::f32});
    const Layout layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded});
    const int block = random.pick({64, 128});
    Tensor x(dtype,
             {random.integer(1, 2), random.integer(1, 3), random.length(1000),
              16 * random.integer(1, 16)},
             layout);
    x.generate([&] { return random.normal(); });
    Tensor got(DType::f32,
               {x.extent(0), x.extent(1), (x.extent(2) + block - 1) / block, x.extent(3)});
    Tensor want = got.unwritten();
    pool_tiles({.backend = Backend::cpu}, {.x = x.view()}, {.block = block}, got.view());
    pool_tiles({.backend = Backend::reference}, {.x = x.view()}, {.block = block}, want.view());
    for (std::int64_t i = 0; i < got.element_count(); ++i) {
      // Partial sums of `block` unit normals stay below 64: half a unit in the last place of each.
      ASSERT_NEAR(got.get(i), want.get(i), 64 * 0x1p-24) << "round " << round;
    }
  }
}

}  // namespace
}  // namespace saccade::test

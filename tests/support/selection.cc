#include "support/selection.h"

#include <algorithm>
#include <functional>

namespace saccade::test {

Tensor lengths(const std::vector<std::int64_t>& values) {
  Tensor lens(DType::i32, {static_cast<std::int64_t>(values.size())});
  for (std::size_t i = 0; i < values.size(); ++i) {
    lens.set(static_cast<std::int64_t>(i), static_cast<double>(values[i]));
  }
  return lens;
}

Selection::Selection(const TileGrid& tile_grid, std::int64_t k_heads, std::int64_t head_dim)
    : grid(tile_grid),
      q(DType::f32, {grid.batch, grid.heads, grid.q_tiles(), head_dim}),
      k(DType::f32, {grid.batch, k_heads, grid.k_tiles(), head_dim}),
      critical(grid),
      marginal(grid) {}

Selection::Selection(const std::vector<double>& logits)
    : Selection({1, 1, 64, static_cast<std::int64_t>(logits.size()) * 64, 64, 64}, 1, 16) {
  q.generate([] { return 0; }).set(0, 1);
  k.generate([] { return 0; });
  for (std::size_t i = 0; i < logits.size(); ++i) {
    k.set(static_cast<std::int64_t>(i) * 16, logits[i]);
  }
  options.scale = 1;
}

SelectTilesInputs Selection::inputs() const {
  return {.grid = grid,
          .q = q.view(),
          .k = k.view(),
          .q_lens = q_lens.view(),
          .k_lens = k_lens.view(),
          .always = always ? always->view() : TileMaskView{}};
}

Selection& Selection::run(const Context& context) {
  for (const TileMask& mask : {std::ref(critical), std::ref(marginal)}) {
    std::fill_n(mask.view().words, grid.words(), ~std::uint64_t{0});
  }
  select_tiles(context, inputs(), options, {critical.view(), marginal.view()});
  return *this;
}

std::string Selection::classes(std::int64_t row) const {
  std::string text;
  for (std::int64_t tile = 0; tile < grid.k_tiles(); ++tile) {
    const bool is_critical = critical.view().test(row, tile);
    const bool is_marginal = marginal.view().test(row, tile);
    text += is_critical && is_marginal ? '?' : is_critical ? 'c' : is_marginal ? 'm' : 'n';
  }
  return text;
}

}  // namespace saccade::test

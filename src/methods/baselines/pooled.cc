#include "core/require.h"

#include <saccade/baselines.h>
#include <saccade/routing.h>

#include <vector>

namespace saccade::baselines {
namespace {

// The means of the tiles of q or k.
class Means {
 public:
  Means(const Context& context, const TensorView& x, const TensorView& lens, int block)
      : dtype_(x.dtype == DType::f64 ? DType::f64 : DType::f32),
        shape_{x.shape[0], x.shape[1], (x.shape[2] + block - 1) / block, x.shape[3]} {
    memory_.resize(view().element_count() * size_of(dtype_));
    pool_tiles(context, {.x = x, .lens = lens}, {.block = block}, view());
  }

  TensorView view() const {
    return TensorView::contiguous(memory_.data(), dtype_,
                                  {shape_[0], shape_[1], shape_[2], shape_[3]});
  }

 private:
  DType dtype_;
  std::int64_t shape_[4];
  std::vector<std::byte> memory_;
};

}  // namespace

TileMask pooled_tiles(const Context& call_context,
                      const PooledInputs& inputs,
                      const PooledOptions& options) {
  require_present("q", inputs.q, 4);
  require_present("k", inputs.k, 4);
  require_share("mass", options.mass);
  const TileGrid grid = {.batch = inputs.q.shape[0],
                         .heads = inputs.q.shape[1],
                         .q_len = inputs.q.shape[2],
                         .k_len = inputs.k.shape[2],
                         .block_q = options.block_q,
                         .block_k = options.block_k};
  TileMask always(grid);
  always.protect(options.protected_tokens.queries, options.protected_tokens.keys);
  Context context = call_context;
  context.workspace = {};
  const Means q(context, inputs.q, inputs.q_lens, options.block_q);
  const Means k(context, inputs.k, inputs.k_lens, options.block_k);

  TileMask critical(grid);
  TileMask others(grid);
  select_tiles(context,
               {.grid = grid,
                .q = q.view(),
                .k = k.view(),
                .q_lens = inputs.q_lens,
                .k_lens = inputs.k_lens,
                .always = always.view()},
               {.scale = options.scale,
                .critical = options.share,
                .critical_mass = options.mass,
                .negligible = TileShare::of_count(0)},
               {.critical = critical.view(), .marginal = others.view()});
  return critical;
}

}  // namespace saccade::baselines

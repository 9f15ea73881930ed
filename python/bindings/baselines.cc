#include "arguments.h"
#include "ops.h"
#include "tensor_views.h"
#include "torch_executor.h"

#include <saccade/baselines.h>
#include <saccade/error.h>

#include <fmt/format.h>

#include <algorithm>

namespace saccade::python {
namespace {

baselines::VideoLayout video_from(const std::vector<std::int64_t>& extents) {
  if (extents.size() != 5) {
    throw InvalidArgument(fmt::format("a video has 5 extents, got {}", extents.size()));
  }
  return {extents[0], extents[1], extents[2], extents[3], extents[4]};
}

// Ranges that own their memory.
struct ProtectedRanges {
  ProtectedRanges(const std::vector<std::int64_t>& query_bounds,
                  const std::vector<std::int64_t>& key_bounds)
      : queries(ranges_from(query_bounds, "protected_queries")),
        keys(ranges_from(key_bounds, "protected_keys")) {}

  baselines::ProtectedTokens view() const { return {queries, keys}; }

  std::vector<TokenRange> queries, keys;
};

Tensor words_of(const TileMask& mask) {
  const Tensor words = empty_words(mask.grid());
  std::copy_n(mask.view().words, mask.grid().words(), mask_of(words, mask.grid()).words);
  return words;
}

}  // namespace

Tensor random_tiles(const std::vector<std::int64_t>& grid,
                    double sparsity,
                    std::int64_t seed,
                    const std::vector<std::int64_t>& protected_queries,
                    const std::vector<std::int64_t>& protected_keys) {
  const ProtectedRanges ranges(protected_queries, protected_keys);
  return words_of(baselines::random_tiles(grid_from(grid), sparsity,
                                          static_cast<std::uint64_t>(seed), ranges.view()));
}

Tensor radial_tiles(const std::vector<std::int64_t>& grid,
                    const std::vector<std::int64_t>& video,
                    double decay,
                    std::int64_t window,
                    std::int64_t sink_frames,
                    const std::vector<std::int64_t>& protected_queries,
                    const std::vector<std::int64_t>& protected_keys) {
  const ProtectedRanges ranges(protected_queries, protected_keys);
  return words_of(baselines::radial_tiles(grid_from(grid), video_from(video),
                                          {.decay = decay,
                                           .window = window,
                                           .sink_frames = sink_frames,
                                           .protected_tokens = ranges.view()}));
}

Tensor spatial_tiles(const std::vector<std::int64_t>& grid,
                     const std::vector<std::int64_t>& video,
                     double ratio,
                     std::int64_t count,
                     std::int64_t sink_frames,
                     const std::vector<std::int64_t>& protected_queries,
                     const std::vector<std::int64_t>& protected_keys) {
  const ProtectedRanges ranges(protected_queries, protected_keys);
  return words_of(baselines::spatial_tiles(grid_from(grid), video_from(video),
                                           {.share = share_from(ratio, count),
                                            .sink_frames = sink_frames,
                                            .protected_tokens = ranges.view()}));
}

Tensor temporal_tiles(const std::vector<std::int64_t>& grid,
                      const std::vector<std::int64_t>& video,
                      double ratio,
                      std::int64_t count,
                      std::int64_t sink_frames,
                      const std::vector<std::int64_t>& protected_queries,
                      const std::vector<std::int64_t>& protected_keys) {
  const ProtectedRanges ranges(protected_queries, protected_keys);
  return words_of(baselines::temporal_tiles(grid_from(grid), video_from(video),
                                            {.share = share_from(ratio, count),
                                             .sink_frames = sink_frames,
                                             .protected_tokens = ranges.view()}));
}

Tensor svg_tiles(const Tensor& q,
                 const Tensor& k,
                 const Tensor& v,
                 const Tensor& spatial,
                 const Tensor& temporal,
                 std::optional<double> scale,
                 std::int64_t block_q,
                 std::int64_t block_k,
                 std::int64_t sampled_tiles,
                 std::int64_t rows_per_tile,
                 std::int64_t seed) {
  baselines::SvgInputs inputs{.q = view_of(q, "q"), .k = view_of(k, "k"), .v = view_of(v, "v")};
  const TileGrid grid = grid_of(inputs.q, inputs.k, block_q, block_k);
  inputs.spatial = mask_of(spatial, grid);
  inputs.temporal = mask_of(temporal, grid);
  TorchExecutor executor;
  const Context context{.executor = &executor, .workspace = {}, .backend = {}};
  return words_of(baselines::svg_tiles(context, inputs,
                                       {.scale = scale,
                                        .sampled_tiles = sampled_tiles,
                                        .rows_per_tile = rows_per_tile,
                                        .seed = static_cast<std::uint64_t>(seed)}));
}

Tensor pooled_tiles(const Tensor& q,
                    const Tensor& k,
                    const std::optional<Tensor>& q_lens,
                    const std::optional<Tensor>& k_lens,
                    std::optional<double> scale,
                    std::int64_t block_q,
                    std::int64_t block_k,
                    double ratio,
                    std::int64_t count,
                    double mass,
                    const std::vector<std::int64_t>& protected_queries,
                    const std::vector<std::int64_t>& protected_keys) {
  const baselines::PooledInputs inputs{.q = view_of(q, "q"),
                                       .k = view_of(k, "k"),
                                       .q_lens = view_of(q_lens, "q_lens"),
                                       .k_lens = view_of(k_lens, "k_lens")};
  const TileGrid grid = grid_of(inputs.q, inputs.k, block_q, block_k);
  const ProtectedRanges ranges(protected_queries, protected_keys);
  TorchExecutor executor;
  const Context context{.executor = &executor, .workspace = {}, .backend = {}};
  return words_of(baselines::pooled_tiles(context, inputs,
                                          {.scale = scale,
                                           .share = share_from(ratio, count),
                                           .mass = mass,
                                           .block_q = grid.block_q,
                                           .block_k = grid.block_k,
                                           .protected_tokens = ranges.view()}));
}

}  // namespace saccade::python

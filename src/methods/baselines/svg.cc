#include "core/element.h"
#include "core/require.h"
#include "methods/baselines/draw.h"

#include <saccade/attention.h>
#include <saccade/baselines.h>
#include <saccade/error.h>

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace saccade::baselines {
namespace {

// Some rows of one row of tiles.
struct SampledTile {
  std::int64_t q_tile = 0;
  std::vector<std::int64_t> rows;
};

// A row may be drawn twice, as in the published code.
std::vector<SampledTile> draw_sample(const TileGrid& grid, const SvgOptions& options) {
  std::vector<SampledTile> sample;
  Draw draw(options.seed);
  Sampling tiles(draw, std::min(options.sampled_tiles, grid.q_tiles()), grid.q_tiles());
  for (std::int64_t q_tile = 0; q_tile < grid.q_tiles(); ++q_tile) {
    if (!tiles.takes_next()) continue;
    SampledTile tile = {.q_tile = q_tile, .rows = {}};
    const std::int64_t first = q_tile * grid.block_q;
    const std::int64_t count = std::min<std::int64_t>(grid.block_q, grid.q_len - first);
    for (std::int64_t i = 0; i < options.rows_per_tile; ++i) {
      tile.rows.push_back(first + draw.below(count));
    }
    sample.push_back(std::move(tile));
  }
  return sample;
}

// Attention of the sampled queries: every sampled tile becomes a query head of its own that reads
// the keys of its head and has one row of tiles, which is the sampled one of the mask.
class Profile {
 public:
  Profile(const Context& context, const SvgInputs& inputs, const SvgOptions& options)
      : context_(context),
        inputs_(inputs),
        scale_(options.scale),
        sample_(draw_sample(inputs.spatial.grid, options)),
        grid_(inputs.spatial.grid) {
    context_.workspace = {};
    grid_.heads *= tiles();
    grid_.q_len = options.rows_per_tile;
    gather_queries();
  }

  // All queries of a head need not be told apart, and share tiles.
  std::vector<double> full_outputs() const {
    return attend(inputs_.q.shape[1], tiles() * grid_.q_len, {});
  }

  std::vector<double> outputs(const TileMaskView& candidate) const {
    const TileMask sampled = gather_tiles(candidate);
    return attend(grid_.heads, grid_.q_len, sampled.view());
  }

  // Elements of the outputs that belong to one head.
  std::int64_t elements_of_head() const { return tiles() * grid_.q_len * inputs_.q.shape[3]; }

 private:
  std::int64_t tiles() const { return std::ssize(sample_); }

  // The gathered queries as so many heads of so many rows.
  std::vector<double> attend(std::int64_t heads,
                             std::int64_t rows,
                             const TileMaskView& tiles) const {
    std::vector<std::byte> memory(queries_.size());
    const auto view = [&](const std::vector<std::byte>& elements) {
      return TensorView::contiguous(elements.data(), inputs_.q.dtype,
                                    {grid_.batch, heads, rows, inputs_.q.shape[3]});
    };
    const TensorView out = view(memory);
    attention_forward(
        context_, {.q = view(queries_), .k = inputs_.k, .v = inputs_.v, .tiles = tiles},
        {.scale = scale_, .block_q = grid_.block_q, .block_k = grid_.block_k}, {.out = out});
    std::vector<double> values(out.element_count());
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = load_element(out, static_cast<std::int64_t>(i));
    }
    return values;
  }

  // Calls body(batch, head, sampled tile) in the order of the gathered queries.
  template <typename Body>
  void for_each_tile(Body&& body) const {
    for (std::int64_t batch = 0; batch < grid_.batch; ++batch) {
      for (std::int64_t head = 0; head < inputs_.q.shape[1]; ++head) {
        for (const SampledTile& tile : sample_) body(batch, head, tile);
      }
    }
  }

  void gather_queries() {
    const std::size_t element = size_of(inputs_.q.dtype);
    const std::size_t bytes_of_row = inputs_.q.shape[3] * element;
    queries_.reserve(grid_.batch * grid_.heads * grid_.q_len * bytes_of_row);
    const auto* elements = static_cast<const std::byte*>(inputs_.q.data);
    for_each_tile([&](std::int64_t batch, std::int64_t head, const SampledTile& tile) {
      for (const std::int64_t row : tile.rows) {
        const std::byte* first =
            elements + offset_of(inputs_.q, batch, head, row) * static_cast<std::int64_t>(element);
        queries_.insert(queries_.end(), first, first + bytes_of_row);
      }
    });
  }

  TileMask gather_tiles(const TileMaskView& candidate) const {
    TileMask sampled(grid_);
    std::uint64_t* words = sampled.view().words;
    for_each_tile([&](std::int64_t batch, std::int64_t head, const SampledTile& tile) {
      words = std::copy_n(candidate.row(candidate.row_index(batch, head, tile.q_tile)),
                          grid_.words_per_row(), words);
    });
    return sampled;
  }

  Context context_;
  const SvgInputs& inputs_;
  std::optional<double> scale_;
  std::vector<SampledTile> sample_;
  TileGrid grid_;  // of the sampled problem
  std::vector<std::byte> queries_;
};

double squared_error(const double* got, const double* want, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += (got[i] - want[i]) * (got[i] - want[i]);
  return sum;
}

void validate(const Context& context, const SvgInputs& inputs, const SvgOptions& options) {
  require_mask("spatial", inputs.spatial, inputs.spatial.grid);
  require_mask("temporal", inputs.temporal, inputs.spatial.grid);
  const TileGrid& grid = inputs.spatial.grid;
  if (options.sampled_tiles < 1) {
    throw InvalidArgument(
        fmt::format("sampled_tiles is {}, but must be at least 1", options.sampled_tiles));
  }
  if (options.rows_per_tile < 1 || options.rows_per_tile > grid.block_q) {
    throw InvalidArgument(fmt::format("rows_per_tile is {}, but must be at least 1 and at most {}",
                                      options.rows_per_tile, grid.block_q));
  }
  // Everything else is checked as attention with a candidate checks it.
  visit_plan(context, {.q = inputs.q, .k = inputs.k, .v = inputs.v, .tiles = inputs.spatial},
             {.scale = options.scale});
}

}  // namespace

TileMask svg_tiles(const Context& context, const SvgInputs& inputs, const SvgOptions& options) {
  validate(context, inputs, options);
  const Profile profile(context, inputs, options);
  const std::vector<double> full = profile.full_outputs();
  const std::vector<double> spatial = profile.outputs(inputs.spatial);
  const std::vector<double> temporal = profile.outputs(inputs.temporal);

  const TileGrid& grid = inputs.spatial.grid;
  TileMask mask(grid);
  const std::int64_t elements = profile.elements_of_head();
  for (std::int64_t head = 0; head < grid.batch * grid.heads; ++head) {
    const std::int64_t first = head * elements;
    const bool is_temporal = squared_error(&temporal[first], &full[first], elements) <
                             squared_error(&spatial[first], &full[first], elements);
    const TileMaskView& winner = is_temporal ? inputs.temporal : inputs.spatial;
    std::copy_n(winner.row(head * grid.q_tiles()), grid.q_tiles() * grid.words_per_row(),
                mask.view().row(head * grid.q_tiles()));
  }
  return mask;
}

}  // namespace saccade::baselines

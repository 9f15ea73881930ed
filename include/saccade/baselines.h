#pragma once

#include <saccade/context.h>
#include <saccade/routing.h>
#include <saccade/tensor_view.h>
#include <saccade/tile_mask.h>

#include <cstdint>
#include <optional>
#include <span>

// The methods that LiteAttention is compared with, as choices of tiles for one and the same
// attention_forward. Each gives a mask in which every row of tiles has an active one. They throw
// InvalidArgument, or Unsupported with the reason. docs/baselines.md tells where they differ from
// the published code.

namespace saccade::baselines {

// Tokens that every query sees and that see every key (text, audio): their tiles are active, whole
// rows for query ranges, whole columns for key ranges, rounded outward to tiles.
struct ProtectedTokens {
  std::span<const TokenRange> queries{};
  std::span<const TokenRange> keys{};
};

// Tiles at random: every head draws max(round((1 - sparsity) * tiles), those that must be) of its
// own. Protected tiles must be, and one of each row without any, drawn at random; the others are
// drawn from all that is left, equally likely. The same on every platform. sparsity in [0, 1].
TileMask random_tiles(const TileGrid& grid,
                      double sparsity,
                      std::uint64_t seed,
                      const ProtectedTokens& protected_tokens = {});

// How the tokens of a video are numbered: text before it, frame by frame, the rows of a frame one
// after the other, text after it. The place of a token is its number within its frame. Text is
// always protected, as query and as key.
struct VideoLayout {
  std::int64_t frames = 1;
  std::int64_t height = 1;
  std::int64_t width = 1;
  std::int64_t prefix = 0;
  std::int64_t suffix = 0;

  std::int64_t tokens_per_frame() const { return height * width; }
  std::int64_t tokens() const { return prefix + frames * tokens_per_frame() + suffix; }

  friend bool operator==(const VideoLayout&, const VideoLayout&) = default;
};

// Throws InvalidArgument unless every extent of the video is at least 1, those of the text are at
// least 0, and q_len and k_len of the grid are layout.tokens().
void validate(const VideoLayout& layout, const TileGrid& grid);

struct RadialOptions {
  double decay = 1;              // > 0: share of the width that the paper gives to other frames
  std::int64_t window = 128;     // >= 1, tokens: no band of keys is narrower
  std::int64_t sink_frames = 1;  // that every query sees, from the first; 0 to frames
  ProtectedTokens protected_tokens{};
};

// Radial Attention (arXiv 2506.19852): a static mask of O(n log n) logits. With s tokens per frame,
// tokens at places k and l of frames that are d apart meet if
//   |k - l| + 1 <= max(w, window)  and  d mod ceil(window / w) = 0,
//   where w = decay * s / 2^floor(log2(d));
// those of one frame (d = 0) always do. decay = window = 1 is the paper's mask; a window as wide as
// a tile is what its code does. A tile is active if any of its tokens meet.
TileMask radial_tiles(const TileGrid& grid,
                      const VideoLayout& layout,
                      const RadialOptions& options);

struct NearestOptions {
  // Of the key tiles of a row, rounded down, at least one. Tiles that are always active (text,
  // sinks, protected ones) count, and more of them than the share are kept.
  TileShare share = TileShare::of_ratio(0.25);
  std::int64_t sink_frames = 1;  // that every query sees, from the first; 0 to frames
  ProtectedTokens protected_tokens{};
};

// The two masks of Sparse VideoGen (arXiv 2502.01776): every row of tiles keeps the key tiles that
// are nearest to it, equal ones by index. The distance is the mean over its queries of that to the
// nearest key of the tile, and the distance of two tokens the difference of their numbers when
// the video is numbered
//   spatial: frame by frame, frame * s + place: tokens of the same and of near frames;
//   temporal: place by place, place * frames + frame: the same and near places in all frames.
TileMask spatial_tiles(const TileGrid& grid,
                       const VideoLayout& layout,
                       const NearestOptions& options);
TileMask temporal_tiles(const TileGrid& grid,
                        const VideoLayout& layout,
                        const NearestOptions& options);

struct SvgInputs {
  TensorView q{}, k{}, v{};  // as in attention.h
  // The candidates, both of one grid, that of q and k: spatial_tiles and temporal_tiles. They need
  // not change from call to call.
  TileMaskView spatial{}, temporal{};
};

struct SvgOptions {
  std::optional<double> scale{};  // of the logits; absent = 1 / sqrt(head_dim)
  // The sampled queries: so many rows of tiles, at most all of them, and so many tokens of each,
  // drawn from the seed alone and the same for all heads. Rows of tiles cost more than tokens: a
  // backend computes a few queries in the time of a vector of them.
  std::int64_t sampled_tiles = 16;  // >= 1
  std::int64_t rows_per_tile = 4;   // 1 to block_q
  std::uint64_t seed = 0;
};

// Sparse VideoGen's online profiling: each head takes the candidate whose output is nearer to that
// of full attention, in sum of squares over the sampled queries; the spatial one if both are equal
// or either is NaN. All three outputs are those of attention_forward, in the dtype of q; the
// workspace of the context is not used.
TileMask svg_tiles(const Context& context, const SvgInputs& inputs, const SvgOptions& options);

struct PooledInputs {
  TensorView q{}, k{};            // as in attention.h
  TensorView q_lens{}, k_lens{};  // i32 [batch]; absent = full length
};

struct PooledOptions {
  std::optional<double> scale{};  // of the logits; absent = 1 / sqrt(head_dim)
  // The highest ranks of a row, at least one, protected tiles counted in; then further ones until
  // their weights sum up to `mass`, in [0, 1]. of_count(1) with a mass is top-p selection.
  TileShare share = TileShare::of_ratio(0.25);
  double mass = 0;
  int block_q = 128;
  int block_k = 64;
  ProtectedTokens protected_tokens{};
};

// Selection anew at every step, as SpargeAttention (arXiv 2502.18137) and VSA (arXiv 2505.13389)
// do: the softmax weights between the means of the tiles, pool_tiles of q and of k, rank the key
// tiles of every row; see select_tiles. Tiles without a valid query or key stay inactive. The
// workspace of the context is not used.
TileMask pooled_tiles(const Context& context,
                      const PooledInputs& inputs,
                      const PooledOptions& options);

}  // namespace saccade::baselines

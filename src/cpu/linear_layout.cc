#include "cpu/linear_layout.h"

#include <algorithm>
#include <span>

namespace saccade::cpu {
namespace {

// Tokens of a block where every query meets every key.
constexpr std::int64_t kDenseBlock = 1024;

// Blocks whose totals are made together share the tables of tile_sums-inl.h. Without a mask the
// blocks are few and long, and each is a unit of work of its own.
constexpr std::int64_t kTargets = 32;

// Bound on the sums of a group of heads, unless a single head needs more.
constexpr std::int64_t kGroupBytes = std::int64_t{128} << 20;

// Floats between rows, beyond their length: keeps rows off each other's cache sets.
constexpr std::ptrdiff_t kRowPadding = 16;

std::int64_t round_up(std::int64_t value, std::int64_t step) {
  return (value + step - 1) / step * step;
}

std::int64_t query_block(const LinearProblem& problem) {
  return problem.tiles ? problem.grid.block_q : kDenseBlock;
}

std::int64_t key_block(const LinearProblem& problem) {
  return problem.tiles ? problem.grid.block_k : kDenseBlock;
}

// An odd number, so that the panels of one block do not all fall into a few cache sets.
std::int64_t room_for(std::int64_t blocks) {
  return blocks | 1;
}

std::int64_t count_blocks(std::int64_t length, std::int64_t size) {
  return (length + size - 1) / size;
}

std::int64_t state_floats(const LinearProblem& problem, std::ptrdiff_t width) {
  return problem.features() * round_up(problem.head_dim, width) +
         round_up(problem.features(), width);
}

}  // namespace

LinearScratch::LinearScratch(Arena& arena,
                             const LinearProblem& problem,
                             std::ptrdiff_t width,
                             std::int64_t targets) {
  constexpr std::int64_t kPiece = LinearLayout::kPiece;
  const std::int64_t padded_head_dim = round_up(problem.head_dim, width);
  const auto take_rows = [&](std::int64_t rows, std::int64_t columns) {
    const std::ptrdiff_t stride = round_up(columns, 16) + kRowPadding;
    return RowBuffer{arena.take<float>(rows * stride), stride};
  };
  features = take_rows(problem.features(), kPiece);
  values = take_rows(kPiece, padded_head_dim);
  x_rows = problem.q_weight ? take_rows(width, padded_head_dim) : RowBuffer{};
  token_panel = arena.take<float>(problem.head_dim * width);
  feature_panel = arena.take<float>(problem.features() * width);
  gradient_panel = arena.take<float>(problem.features() * width);
  value_panel = arena.take<float>(problem.head_dim * width);
  result_panel = arena.take<float>(problem.head_dim * width);
  last = arena.take<float>(kPiece);
  factors = arena.take<float>(width);
  ones = arena.take<float>(kPiece);
  tables = arena.take<float>(8 * 16 * width);
  totals = arena.take<float>(targets * state_floats(problem, width));
  const std::int64_t blocks = std::max(count_blocks(problem.grid.q_len, query_block(problem)),
                                       count_blocks(problem.grid.k_len, key_block(problem)));
  met = arena.take<std::uint32_t>(targets * count_blocks(blocks, Meetings::kWordBits));
}

LinearLayout::LinearLayout(
    Arena& arena, const LinearProblem& problem, int workers, std::ptrdiff_t width, bool is_backward)
    : targets(problem.tiles ? kTargets : 1),
      width_(width),
      query_size_(query_block(problem)),
      key_size_(key_block(problem)),
      query_blocks_(count_blocks(problem.grid.q_len, query_size_)),
      key_blocks_(count_blocks(problem.grid.k_len, key_size_)),
      query_room_(room_for(query_blocks_)),
      key_room_(room_for(key_blocks_)),
      state_floats_(state_floats(problem, width)) {
  const std::int64_t key_heads = problem.grid.batch * problem.k_heads;
  const std::int64_t query_heads = problem.heads_per_key_head();
  const std::int64_t head_floats =
      state_floats_ * (key_room_ + (is_backward ? query_heads * query_room_ : 0));
  const std::int64_t head_bytes = head_floats * static_cast<std::int64_t>(sizeof(float));
  group = std::clamp<std::int64_t>(kGroupBytes / head_bytes, 1, key_heads);
  key_sums_ = arena.take<float>(group * key_room_ * state_floats_);
  if (is_backward) {
    query_sums_ = arena.take<float>(group * query_heads * query_room_ * state_floats_);
  }
  if (problem.q_weight && is_backward) {
    weight_floats_ = problem.head_dim * round_up(problem.head_dim, width);
    query_weight_parts_ =
        arena.take<float>(problem.grid.batch * problem.grid.heads * query_units() * weight_floats_);
    key_weight_parts_ = arena.take<float>(key_heads * key_units() * weight_floats_);
  }
  Arena counting;
  LinearScratch(counting, problem, width, targets);
  scratch_bytes_ = counting.used();
  scratch_ = arena.take<std::byte>(workers * static_cast<std::int64_t>(scratch_bytes_));
}

TokenBlocks LinearLayout::queries(const LinearProblem& problem, std::int64_t batch) const {
  return {problem.valid_queries(batch), query_size_};
}

TokenBlocks LinearLayout::keys(const LinearProblem& problem, std::int64_t batch) const {
  return {problem.valid_keys(batch), key_size_};
}

BlockSums LinearLayout::key_sums(std::int64_t index) const {
  return {key_sums_ + index * key_room_ * state_floats_, key_room_};
}

BlockSums LinearLayout::query_sums(std::int64_t index) const {
  return {query_sums_ + index * query_room_ * state_floats_, query_room_};
}

LinearScratch LinearLayout::scratch(const LinearProblem& problem, int worker) const {
  Arena arena(std::span(scratch_ + worker * scratch_bytes_, scratch_bytes_));
  LinearScratch scratch(arena, problem, width_, targets);
  std::fill_n(scratch.ones, kPiece, 1.0f);
  return scratch;
}

FeatureMapping LinearLayout::query_mapping(const LinearProblem& problem, std::int64_t head) const {
  return mapping(problem, problem.q_weight, head);
}

FeatureMapping LinearLayout::key_mapping(const LinearProblem& problem,
                                         std::int64_t key_head) const {
  return mapping(problem, problem.k_weight, key_head);
}

FeatureMapping LinearLayout::mapping(const LinearProblem& problem,
                                     const TensorView& weight,
                                     std::int64_t head) const {
  const std::int64_t head_dim = problem.head_dim;
  return {.kind = problem.feature_map,
          .head_dim = head_dim,
          .padded_head_dim = round_up(head_dim, width_),
          .features = problem.features(),
          .padded_features = round_up(problem.features(), width_),
          .weight = weight ? static_cast<const float*>(weight.data) + head * head_dim * head_dim
                           : nullptr};
}

float* LinearLayout::query_weight_part(std::int64_t head_of_batch, std::int64_t unit) const {
  if (query_weight_parts_ == nullptr) return nullptr;
  return query_weight_parts_ + (head_of_batch * query_units() + unit) * weight_floats_;
}

float* LinearLayout::key_weight_part(std::int64_t head_of_batch, std::int64_t unit) const {
  if (key_weight_parts_ == nullptr) return nullptr;
  return key_weight_parts_ + (head_of_batch * key_units() + unit) * weight_floats_;
}

}  // namespace saccade::cpu

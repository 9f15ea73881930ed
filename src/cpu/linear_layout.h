#pragma once

#include "core/arena.h"
#include "core/linear_problem.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

// How linear attention is cut into blocks of tokens, and where their sums lie.
//
// A block of tokens is a tile where the problem has a mask, and longer where every query meets
// every key. Each block of keys has its sum of phi(k) [v, 1]^T; a block of queries needs the total
// of the blocks that it meets.

namespace saccade::cpu {

// A feature map and the sizes that go with it.
struct FeatureMapping {
  FeatureMap kind;
  std::ptrdiff_t head_dim, padded_head_dim;  // padded: to whole panels
  std::ptrdiff_t features, padded_features;
  const float* weight;  // W of one head, hedgehog only

  // The sum over some tokens: phi v^T, [features][padded_head_dim], then phi, [padded_features].
  std::ptrdiff_t matrix_floats() const { return features * padded_head_dim; }
  std::ptrdiff_t state_floats() const { return matrix_floats() + padded_features; }
};

// Rows of floats, aligned; the stride keeps them off each other's cache sets.
struct RowBuffer {
  float* at;
  std::ptrdiff_t stride;
};

// One axis of a sample: its tokens, the valid ones first, in blocks.
struct TokenBlocks {
  std::int64_t valid, size;

  std::int64_t count() const { return (valid + size - 1) / size; }
  std::int64_t begin(std::int64_t block) const { return block * size; }
  std::int64_t end(std::int64_t block) const { return std::min(valid, (block + 1) * size); }
};

// The sums of all blocks of one head, cut into panels, and each panel of all blocks side by side,
// [panels][blocks][width]: totals over blocks are made panel by panel, from what fits into L1.
struct BlockSums {
  float* at;
  std::int64_t blocks;  // that there is room for
};

// Which of `sources` blocks each of `targets` blocks meets: bits, 32 in a word.
struct Meetings {
  static constexpr std::int64_t kWordBits = 32;

  const std::uint32_t* words;  // [targets][words_per_target()]; bits beyond the sources are 0
  std::int64_t targets, sources;

  std::int64_t words_per_target() const { return (sources + kWordBits - 1) / kWordBits; }
  const std::uint32_t* of(std::int64_t target) const { return words + target * words_per_target(); }
  bool has_any(std::int64_t target) const {
    return std::any_of(of(target), of(target + 1), [](std::uint32_t bits) { return bits != 0; });
  }
};

// What one worker needs. A panel is [depth][width], its tokens lie across the lanes.
struct LinearScratch {
  LinearScratch(Arena& arena,
                const LinearProblem& problem,
                std::ptrdiff_t width,
                std::int64_t targets);

  RowBuffer features;     // [features][kPiece]
  RowBuffer values;       // [kPiece][padded_head_dim]
  RowBuffer x_rows;       // [panel][padded_head_dim], hedgehog only
  float* token_panel;     // [head_dim]
  float* feature_panel;   // [features]
  float* gradient_panel;  // [features]
  float* value_panel;     // [head_dim]
  float* result_panel;    // [head_dim]
  float* last;            // [kPiece]: what stands beside the values in a sum; 0 beyond the tokens
  float* factors;         // one panel
  float* ones;            // [kPiece]
  float* tables;          // [8][16][width]: sums of every choice out of four blocks
  float* totals;          // [targets][state_floats]
  std::uint32_t* met;     // [targets][words]
};

class LinearLayout {
 public:
  static constexpr std::int64_t kPiece = 64;  // tokens that are mapped at a time

  LinearLayout(Arena& arena,
               const LinearProblem& problem,
               int workers,
               std::ptrdiff_t width,
               bool is_backward);

  TokenBlocks queries(const LinearProblem& problem, std::int64_t batch) const;
  TokenBlocks keys(const LinearProblem& problem, std::int64_t batch) const;

  // Of the index-th key head, or query head, of a group.
  BlockSums key_sums(std::int64_t index) const;
  BlockSums query_sums(std::int64_t index) const;  // backward only

  LinearScratch scratch(const LinearProblem& problem, int worker) const;

  // The map of a query head or a key head of a sample.
  FeatureMapping query_mapping(const LinearProblem& problem, std::int64_t head) const;
  FeatureMapping key_mapping(const LinearProblem& problem, std::int64_t key_head) const;

  // Partial gradients of W: one for each unit of work of a head of the batch; backward only.
  float* query_weight_part(std::int64_t head_of_batch, std::int64_t unit) const;
  float* key_weight_part(std::int64_t head_of_batch, std::int64_t unit) const;
  std::int64_t weight_floats() const { return weight_floats_; }

  // Units of work of a head: `targets` blocks each.
  std::int64_t key_blocks() const { return key_blocks_; }
  std::int64_t query_units() const { return (query_blocks_ + targets - 1) / targets; }
  std::int64_t key_units() const { return (key_blocks_ + targets - 1) / targets; }

  std::int64_t group;    // key heads at a time
  std::int64_t targets;  // blocks whose totals are made together

 private:
  FeatureMapping mapping(const LinearProblem& problem,
                         const TensorView& weight,
                         std::int64_t head) const;

  std::ptrdiff_t width_;
  std::int64_t query_size_, key_size_;      // tokens of a block
  std::int64_t query_blocks_, key_blocks_;  // of the longest sample
  std::int64_t query_room_, key_room_;      // blocks that there is room for
  std::int64_t state_floats_;
  std::int64_t weight_floats_ = 0;
  float* key_sums_;
  float* query_sums_ = nullptr;
  float* query_weight_parts_ = nullptr;
  float* key_weight_parts_ = nullptr;
  std::byte* scratch_;
  std::size_t scratch_bytes_;
};

}  // namespace saccade::cpu

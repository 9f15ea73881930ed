#pragma once

#include "core/arena.h"
#include "core/backend.h"

#include <cstdint>

namespace saccade::cpu {

// Key heads [begin, end), counted batch * k_heads + key_head.
struct HeadRange {
  std::int64_t begin, end;
};

// Keys and values of one head as dense f32 rows of head_dim elements.
struct PackedHead {
  const float* k;
  const float* v;
};

// Dense f32 keys and values for a group of heads at a time: the caller's own memory where it is
// that already, a copy elsewhere. Kernels never run on strided rows: power-of-two strides map all
// rows to a few cache sets and cost 20 to 30 %, while packing costs 0.3 % of a dense call.
class KeyValuePacking {
 public:
  explicit KeyValuePacking(const AttentionProblem& problem);

  std::int64_t bytes_per_head() const { return head_floats_ * 4 * (packs_k_ + packs_v_); }
  void allocate(Arena& arena, std::int64_t heads);

  void pack(const Execution& execution, const AttentionProblem& problem, HeadRange heads) const;

  // Valid once `heads` has been packed.
  PackedHead head(const AttentionProblem& problem, HeadRange heads, std::int64_t head) const;

 private:
  bool packs_k_, packs_v_;
  std::int64_t head_floats_;
  float* k_ = nullptr;  // [heads][k_len][head_dim]
  float* v_ = nullptr;
};

}  // namespace saccade::cpu

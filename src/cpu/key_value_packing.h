#pragma once

#include "core/arena.h"
#include "core/backend.h"
#include "cpu/words.h"

#include <cstddef>
#include <cstdint>
#include <optional>

namespace saccade::cpu {

// Key heads [begin, end), counted batch * k_heads + key_head.
struct HeadRange {
  std::int64_t begin, end;
};

// How the keys or values of a head lie, in words and without gaps. With floats both are the same.
enum class TokenForm {
  rows,      // a row for each token, for products that run over head_dim
  by_token,  // for products that run over tokens: a row of head_dim words for as many tokens as a
             // word has elements
};

// Keys and values of one head.
struct PackedHead {
  const float* k;           // rows
  const float* v;           // by token in the forward pass, rows in the backward pass
  const float* k_by_token;  // of the backward pass

  // The same some words, and thus some tokens, later.
  PackedHead from(std::ptrdiff_t words) const { return {k + words, v + words, k_by_token + words}; }
};

enum class Pass { forward, backward };

// Keys and values as a pass reads them, for a group of heads at a time: the caller's own memory
// where it is that already, a copy elsewhere. Kernels never run on strided rows: power-of-two
// strides map all rows to a few cache sets and cost 20 to 30 %, while packing costs 0.3 % of a
// dense call.
class KeyValuePacking {
 public:
  KeyValuePacking(const AttentionProblem& problem, Pass pass);

  std::int64_t bytes_per_head() const;
  void allocate(Arena& arena, std::int64_t heads);

  void pack(const Execution& execution, const AttentionProblem& problem, HeadRange heads) const;

  // Valid once `heads` has been packed.
  PackedHead head(const AttentionProblem& problem, HeadRange heads, std::int64_t head) const;

 private:
  // A copy of keys or values; none where the tensor is as it should be.
  struct Copy {
    Copy(const TensorView& tensor, TokenForm form, Words words);

    TokenForm form;
    bool is_needed;
    float* memory = nullptr;
  };

  const float* words_of_head(const Copy& copy,
                             const TensorView& tensor,
                             const AttentionProblem& problem,
                             HeadRange heads,
                             std::int64_t head) const;

  Words words_;
  Copy k_, v_;
  std::optional<Copy> k_by_token_;  // beside rows
  std::int64_t head_words_;         // of one copy
};

}  // namespace saccade::cpu

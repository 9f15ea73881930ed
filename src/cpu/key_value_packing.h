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

// What a row of words holds. With floats both are the same.
enum class TokenForm {
  rows,      // one token, for products that run over head_dim
  by_token,  // a word for each dimension, of as many tokens as a word has elements, for products
             // that run over tokens
};

// The keys or values of one head.
struct TokenRows {
  const float* words = nullptr;
  std::ptrdiff_t stride = 0;  // words from one row to the next
  std::ptrdiff_t tokens = 1;  // of a row

  TokenRows from(std::int64_t token) const {
    return {words + token / tokens * stride, stride, tokens};
  }
};

struct PackedHead {
  TokenRows k;           // rows
  TokenRows v;           // by token in the forward pass, rows in the backward pass
  TokenRows k_by_token;  // of the backward pass

  PackedHead from(std::int64_t token) const {
    return {k.from(token), v.from(token), k_by_token.from(token)};
  }
};

enum class Pass { forward, backward };

// Keys and values as a pass reads them, for a group of heads at a time: the caller's own memory
// where it is that already, a copy elsewhere. Kernels never run on strided rows: power-of-two
// strides map all rows to a few cache sets and cost 20 to 30 %, while packing costs 0.3 % of a
// dense call. For the same reason rows of 512 bytes that products over tokens walk across are
// copied with gaps between them, if they are visited often enough.
class KeyValuePacking {
 public:
  KeyValuePacking(const AttentionProblem& problem, Pass pass);

  // Depends on shapes, dtypes and strides only.
  std::int64_t bytes_per_head() const;
  void allocate(Arena& arena, std::int64_t heads);

  void pack(const Execution& execution, const AttentionProblem& problem, HeadRange heads) const;

  // Valid once `heads` has been packed.
  PackedHead head(const AttentionProblem& problem, HeadRange heads, std::int64_t head) const;

 private:
  // Keys or values: a copy of them where the tensor itself does not serve.
  struct Copy {
    Copy(const AttentionProblem& problem,
         const TensorView& tensor,
         TokenForm form,
         bool is_walked_across);

    std::ptrdiff_t tokens_per_row() const { return form == TokenForm::rows ? 1 : elements; }

    TokenForm form;
    std::ptrdiff_t elements;  // of a word
    std::ptrdiff_t row_words;
    std::ptrdiff_t stride;
    std::int64_t head_words;
    bool has_room;  // for a copy
    bool is_used;
    float* memory = nullptr;
  };

  static void allocate_copy(Arena& arena, std::int64_t heads, Copy& copy);
  static TokenRows rows_of_head(const Copy& copy,
                                const TensorView& tensor,
                                const AttentionProblem& problem,
                                HeadRange heads,
                                std::int64_t head);

  Copy k_, v_;
  std::optional<Copy> k_by_token_;  // beside rows
};

}  // namespace saccade::cpu

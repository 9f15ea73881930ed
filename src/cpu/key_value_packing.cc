#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/key_value_packing.cc"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on

#include "cpu/key_value_packing.h"

#include "core/parallel.h"
#include "cpu/element.h"
#include "cpu/pack-inl.h"
#include "cpu/targets.h"

#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

// Tokens [begin, end) of one head -> rows of words, `to_stride` apart; `to` is where token `begin`,
// which is even, will be.
void pack_tokens(const TensorView& tensor,
                 TokenForm form,
                 Words words,
                 std::int64_t batch,
                 std::int64_t head,
                 std::int64_t begin,
                 std::int64_t end,
                 float* to,
                 std::ptrdiff_t to_stride) {
  const std::ptrdiff_t head_dim = tensor.shape[3];
  const std::ptrdiff_t stride = tensor.strides[2];
  if (words == Words::floats) {
    with_element(tensor.dtype, [&](auto* element) HWY_ATTR {
      using T = std::remove_pointer_t<decltype(element)>;
      copy_rows(row_of<T>(tensor, batch, head, begin), stride, 1.0f, to, to_stride, end - begin,
                head_dim);
    });
    return;
  }
  const bf16* rows = row_of<const bf16>(tensor, batch, head, begin);
  const std::ptrdiff_t tokens = end - begin;
  for (std::ptrdiff_t token = 0; token < tokens; token += form == TokenForm::rows ? 1 : 2) {
    const bf16* even = rows + token * stride;
    if (form == TokenForm::rows) {
      std::memcpy(to, even, head_dim * sizeof(bf16));
    } else {
      zip_rows(even, token + 1 < tokens ? even + stride : nullptr, head_dim, to);
    }
    to += to_stride;
  }
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cpu {
namespace {

HWY_EXPORT(pack_tokens);

bool has_dense_rows(const TensorView& tensor) {
  return tensor.shape[2] == 1 || tensor.strides[2] == tensor.shape[3];
}

// Whether every row of a bf16 tensor is a whole number of words into memory.
bool has_whole_words(const TensorView& tensor) {
  return reinterpret_cast<std::uintptr_t>(tensor.data) % sizeof(float) == 0 &&
         tensor.strides[0] % 2 == 0 && tensor.strides[1] % 2 == 0;
}

bool is_packed(const TensorView& tensor, TokenForm form, Words words) {
  if (!has_dense_rows(tensor)) return false;
  if (words == Words::floats) return tensor.dtype == DType::f32;
  return form == TokenForm::rows && has_whole_words(tensor);
}

// Rows this far apart meet in an eighth of the sets of a cache, which holds eight of each.
constexpr std::ptrdiff_t kCrowdedWords = 128;
constexpr std::ptrdiff_t kGapWords = 16;
// How often a tile of keys must be visited for a copy with gaps to pay.
constexpr std::int64_t kVisitsThatPay = 16;

std::int64_t visits_of_a_tile(const AttentionProblem& problem) {
  const TileGrid& grid = problem.grid;
  const std::int64_t key_tiles = grid.batch * problem.k_heads * grid.k_tiles();
  if (problem.tiles == nullptr) return grid.tiles() / key_tiles;
  std::int64_t active = 0;
  for (std::int64_t i = 0; i < grid.rows() * grid.words_per_row(); ++i) {
    active += std::popcount(problem.tiles[i]);
  }
  return active / key_tiles;
}

}  // namespace

Words words_of(const AttentionProblem& problem) {
  return problem.q.dtype == DType::bf16 && bf16_dot() != Bf16Dot::none ? Words::bf16_pairs
                                                                       : Words::floats;
}

KeyValuePacking::Copy::Copy(const AttentionProblem& problem,
                            const TensorView& tensor,
                            TokenForm to,
                            bool is_walked_across)
    : form(to),
      elements(elements_per_word(words_of(problem))),
      row_words(problem.head_dim * tokens_per_row() / elements),
      stride(row_words) {
  const bool is_crowded = is_walked_across && row_words % kCrowdedWords == 0;
  const bool must_copy = !is_packed(tensor, form, words_of(problem));
  if (is_crowded) stride += kGapWords;
  head_words = (problem.grid.k_len + tokens_per_row() - 1) / tokens_per_row() * stride;
  has_room = must_copy || is_crowded;
  is_used = must_copy || (is_crowded && visits_of_a_tile(problem) >= kVisitsThatPay);
}

KeyValuePacking::KeyValuePacking(const AttentionProblem& problem, Pass pass)
    : k_(problem,
         problem.k,
         TokenForm::rows,
         pass == Pass::backward && words_of(problem) == Words::floats),
      v_(problem,
         problem.v,
         pass == Pass::forward ? TokenForm::by_token : TokenForm::rows,
         pass == Pass::forward) {
  if (pass == Pass::backward && words_of(problem) == Words::bf16_pairs) {
    k_by_token_.emplace(problem, problem.k, TokenForm::by_token, true);
  }
}

std::int64_t KeyValuePacking::bytes_per_head() const {
  const auto words = [](const Copy& copy) { return copy.has_room ? copy.head_words : 0; };
  const std::int64_t total = words(k_) + words(v_) + (k_by_token_ ? words(*k_by_token_) : 0);
  return total * static_cast<std::int64_t>(sizeof(float));
}

void KeyValuePacking::allocate_copy(Arena& arena, std::int64_t heads, Copy& copy) {
  if (copy.has_room) copy.memory = arena.take<float>(heads * copy.head_words);
}

void KeyValuePacking::allocate(Arena& arena, std::int64_t heads) {
  allocate_copy(arena, heads, k_);
  allocate_copy(arena, heads, v_);
  if (k_by_token_) allocate_copy(arena, heads, *k_by_token_);
}

void KeyValuePacking::pack(const Execution& execution,
                           const AttentionProblem& problem,
                           HeadRange heads) const {
  if (!k_.is_used && !v_.is_used && !k_by_token_) return;
  const TileGrid& grid = problem.grid;
  const auto pack_tile = [&](int, std::int64_t unit) {
    const std::int64_t slot = unit / grid.k_tiles();
    const std::int64_t batch = (heads.begin + slot) / problem.k_heads;
    const std::int64_t head = (heads.begin + slot) % problem.k_heads;
    const std::int64_t begin = unit % grid.k_tiles() * grid.block_k;
    const std::int64_t end = std::min(begin + grid.block_k, problem.valid_keys(batch));
    if (begin >= end) return;
    const auto pack_into = [&](const Copy& copy, const TensorView& tensor) {
      if (!copy.is_used) return;
      float* to =
          copy.memory + slot * copy.head_words + begin / copy.tokens_per_row() * copy.stride;
      HWY_DYNAMIC_DISPATCH(pack_tokens)
      (tensor, copy.form, words_of(problem), batch, head, begin, end, to, copy.stride);
    };
    pack_into(k_, problem.k);
    pack_into(v_, problem.v);
    if (k_by_token_) pack_into(*k_by_token_, problem.k);
  };
  for_each_unit(execution, (heads.end - heads.begin) * grid.k_tiles(), pack_tile);
}

TokenRows KeyValuePacking::rows_of_head(const Copy& copy,
                                        const TensorView& tensor,
                                        const AttentionProblem& problem,
                                        HeadRange heads,
                                        std::int64_t head) {
  if (copy.is_used) {
    return {copy.memory + (head - heads.begin) * copy.head_words, copy.stride,
            copy.tokens_per_row()};
  }
  const std::int64_t batch = head / problem.k_heads;
  const std::int64_t key_head = head % problem.k_heads;
  const auto* words =
      words_of(problem) == Words::floats
          ? row_of<const float>(tensor, batch, key_head, 0)
          : reinterpret_cast<const float*>(row_of<const bf16>(tensor, batch, key_head, 0));
  return {words, copy.row_words, copy.tokens_per_row()};
}

PackedHead KeyValuePacking::head(const AttentionProblem& problem,
                                 HeadRange heads,
                                 std::int64_t head) const {
  const TokenRows k = rows_of_head(k_, problem.k, problem, heads, head);
  return {
      .k = k,
      .v = rows_of_head(v_, problem.v, problem, heads, head),
      .k_by_token = k_by_token_ ? rows_of_head(*k_by_token_, problem.k, problem, heads, head) : k};
}

}  // namespace saccade::cpu

#endif

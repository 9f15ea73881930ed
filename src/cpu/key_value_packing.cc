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
#include <cstdint>
#include <cstring>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

// Tokens [begin, end) of one head -> their words in `to`; `begin` is even.
void pack_tokens(const TensorView& tensor,
                 TokenForm form,
                 Words words,
                 std::int64_t batch,
                 std::int64_t head,
                 std::int64_t begin,
                 std::int64_t end,
                 float* to) {
  const std::ptrdiff_t head_dim = tensor.shape[3];
  const std::ptrdiff_t stride = tensor.strides[2];
  to += begin * head_dim / elements_per_word(words);
  if (words == Words::floats) {
    with_element(tensor.dtype, [&](auto* element) HWY_ATTR {
      using T = std::remove_pointer_t<decltype(element)>;
      copy_rows(row_of<T>(tensor, batch, head, begin), stride, 1.0f, to, head_dim, end - begin,
                head_dim);
    });
    return;
  }
  const bf16* rows = row_of<const bf16>(tensor, batch, head, begin);
  for (std::ptrdiff_t row = 0; row < end - begin; row += form == TokenForm::rows ? 1 : 2) {
    const bf16* even = rows + row * stride;
    if (form == TokenForm::rows) {
      std::memcpy(to + row * head_dim / 2, even, head_dim * sizeof(bf16));
    } else {
      zip_rows(even, row + 1 < end - begin ? even + stride : nullptr, head_dim,
               to + row / 2 * head_dim);
    }
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

std::int64_t words_per_head(const AttentionProblem& problem) {
  const std::int64_t elements = elements_per_word(words_of(problem));
  return (problem.grid.k_len + elements - 1) / elements * problem.head_dim;
}

}  // namespace

Words words_of(const AttentionProblem& problem) {
  return problem.q.dtype == DType::bf16 && bf16_dot() != Bf16Dot::none ? Words::bf16_pairs
                                                                       : Words::floats;
}

KeyValuePacking::Copy::Copy(const TensorView& tensor, TokenForm to, Words words)
    : form(to), is_needed(!is_packed(tensor, to, words)) {}

KeyValuePacking::KeyValuePacking(const AttentionProblem& problem, Pass pass)
    : words_(words_of(problem)),
      k_(problem.k, TokenForm::rows, words_),
      v_(problem.v, pass == Pass::forward ? TokenForm::by_token : TokenForm::rows, words_),
      head_words_(words_per_head(problem)) {
  if (words_ == Words::bf16_pairs && pass == Pass::backward) {
    k_by_token_.emplace(problem.k, TokenForm::by_token, words_);
  }
}

std::int64_t KeyValuePacking::bytes_per_head() const {
  const int copies = k_.is_needed + v_.is_needed + k_by_token_.has_value();
  return copies * head_words_ * static_cast<std::int64_t>(sizeof(float));
}

void KeyValuePacking::allocate(Arena& arena, std::int64_t heads) {
  if (k_.is_needed) k_.memory = arena.take<float>(heads * head_words_);
  if (v_.is_needed) v_.memory = arena.take<float>(heads * head_words_);
  if (k_by_token_) k_by_token_->memory = arena.take<float>(heads * head_words_);
}

void KeyValuePacking::pack(const Execution& execution,
                           const AttentionProblem& problem,
                           HeadRange heads) const {
  if (bytes_per_head() == 0) return;
  const TileGrid& grid = problem.grid;
  const auto pack_tile = [&](int, std::int64_t unit) {
    const std::int64_t slot = unit / grid.k_tiles();
    const std::int64_t batch = (heads.begin + slot) / problem.k_heads;
    const std::int64_t head = (heads.begin + slot) % problem.k_heads;
    const std::int64_t begin = unit % grid.k_tiles() * grid.block_k;
    const std::int64_t end = std::min(begin + grid.block_k, problem.valid_keys(batch));
    if (begin >= end) return;
    const auto pack_into = [&](const Copy& copy, const TensorView& tensor) {
      if (!copy.is_needed) return;
      HWY_DYNAMIC_DISPATCH(pack_tokens)
      (tensor, copy.form, words_, batch, head, begin, end, copy.memory + slot * head_words_);
    };
    pack_into(k_, problem.k);
    pack_into(v_, problem.v);
    if (k_by_token_) pack_into(*k_by_token_, problem.k);
  };
  for_each_unit(execution, (heads.end - heads.begin) * grid.k_tiles(), pack_tile);
}

const float* KeyValuePacking::words_of_head(const Copy& copy,
                                            const TensorView& tensor,
                                            const AttentionProblem& problem,
                                            HeadRange heads,
                                            std::int64_t head) const {
  if (copy.is_needed) return copy.memory + (head - heads.begin) * head_words_;
  const std::int64_t batch = head / problem.k_heads;
  const std::int64_t key_head = head % problem.k_heads;
  return words_ == Words::floats
             ? row_of<const float>(tensor, batch, key_head, 0)
             : reinterpret_cast<const float*>(row_of<const bf16>(tensor, batch, key_head, 0));
}

PackedHead KeyValuePacking::head(const AttentionProblem& problem,
                                 HeadRange heads,
                                 std::int64_t head) const {
  const float* k = words_of_head(k_, problem.k, problem, heads, head);
  return {
      .k = k,
      .v = words_of_head(v_, problem.v, problem, heads, head),
      .k_by_token = k_by_token_ ? words_of_head(*k_by_token_, problem.k, problem, heads, head) : k};
}

}  // namespace saccade::cpu

#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/key_value_packing.cc"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on

#include "cpu/key_value_packing.h"

#include "core/parallel.h"
#include "cpu/element.h"
#include "cpu/pack-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

// Tokens [begin, end) of one head -> rows [begin, end) of `to`.
void pack_tokens(const TensorView& tensor,
                 std::int64_t batch,
                 std::int64_t head,
                 std::int64_t begin,
                 std::int64_t end,
                 float* to) {
  const std::ptrdiff_t head_dim = tensor.shape[3];
  with_element(tensor.dtype, [&](auto* element) HWY_ATTR {
    using T = std::remove_pointer_t<decltype(element)>;
    copy_rows(row_of<T>(tensor, batch, head, begin), tensor.strides[2], 1.0f, to + begin * head_dim,
              head_dim, end - begin, head_dim);
  });
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cpu {
namespace {

HWY_EXPORT(pack_tokens);

bool is_packed(const TensorView& tensor) {
  return tensor.dtype == DType::f32 &&
         (tensor.shape[2] == 1 || tensor.strides[2] == tensor.shape[3]);
}

}  // namespace

KeyValuePacking::KeyValuePacking(const AttentionProblem& problem)
    : packs_k_(!is_packed(problem.k)),
      packs_v_(!is_packed(problem.v)),
      head_floats_(problem.grid.k_len * problem.head_dim) {}

void KeyValuePacking::allocate(Arena& arena, std::int64_t heads) {
  if (packs_k_) k_ = arena.take<float>(heads * head_floats_);
  if (packs_v_) v_ = arena.take<float>(heads * head_floats_);
}

void KeyValuePacking::pack(const Execution& execution,
                           const AttentionProblem& problem,
                           HeadRange heads) const {
  if (!packs_k_ && !packs_v_) return;
  const TileGrid& grid = problem.grid;
  const auto pack_tile = [&](int, std::int64_t unit) {
    const std::int64_t slot = unit / grid.k_tiles();
    const std::int64_t batch = (heads.begin + slot) / problem.k_heads;
    const std::int64_t head = (heads.begin + slot) % problem.k_heads;
    const std::int64_t begin = unit % grid.k_tiles() * grid.block_k;
    const std::int64_t end = std::min(begin + grid.block_k, problem.valid_keys(batch));
    if (begin >= end) return;
    const auto pack = HWY_DYNAMIC_DISPATCH(pack_tokens);
    if (packs_k_) pack(problem.k, batch, head, begin, end, k_ + slot * head_floats_);
    if (packs_v_) pack(problem.v, batch, head, begin, end, v_ + slot * head_floats_);
  };
  for_each_unit(execution, (heads.end - heads.begin) * grid.k_tiles(), pack_tile);
}

PackedHead KeyValuePacking::head(const AttentionProblem& problem,
                                 HeadRange heads,
                                 std::int64_t head) const {
  const std::int64_t batch = head / problem.k_heads;
  const std::int64_t key_head = head % problem.k_heads;
  const std::int64_t offset = (head - heads.begin) * head_floats_;
  return {packs_k_ ? k_ + offset : row_of<const float>(problem.k, batch, key_head, 0),
          packs_v_ ? v_ + offset : row_of<const float>(problem.v, batch, key_head, 0)};
}

}  // namespace saccade::cpu

#endif

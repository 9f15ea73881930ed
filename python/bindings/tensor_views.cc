#include "tensor_views.h"

#include <saccade/error.h>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <limits>

namespace saccade::python {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

DType dtype_of(const Tensor& tensor, std::string_view name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::Int:
      return DType::i32;
    default:
      throw Unsupported(fmt::format(
          "{} must be float16, bfloat16, float32 or float64 (lengths: int32), got dtype {}", name,
          torch::headeronly::toString(tensor.scalar_type())));
  }
}

// Null data says "absent" to saccade, and torch gives null for a tensor without elements. Such a
// tensor must fail the shape checks instead of being ignored.
void* data_of(const Tensor& tensor) {
  alignas(64) static std::byte nothing;
  return tensor.numel() == 0 ? &nothing : tensor.data_ptr();
}

int to_int(std::int64_t value) {
  return static_cast<int>(std::clamp<std::int64_t>(value, std::numeric_limits<int>::min(),
                                                   std::numeric_limits<int>::max()));
}

}  // namespace

TensorView view_of(const Tensor& tensor, std::string_view name) {
  if (tensor.dim() > TensorView::kMaxRank) {
    throw InvalidArgument(fmt::format("{} has {} dimensions, but at most {} are possible", name,
                                      tensor.dim(), TensorView::kMaxRank));
  }
  TensorView view;
  view.data = data_of(tensor);
  view.dtype = dtype_of(tensor, name);
  view.rank = static_cast<int>(tensor.dim());
  std::ranges::copy(tensor.sizes(), view.shape.begin());
  std::ranges::copy(tensor.strides(), view.strides.begin());
  return view;
}

TensorView view_of(const std::optional<Tensor>& tensor, std::string_view name) {
  return tensor ? view_of(*tensor, name) : TensorView{};
}

std::string_view text_of(const Tensor& bytes, const char* name) {
  if (bytes.scalar_type() != ScalarType::Byte || !bytes.is_contiguous()) {
    throw InvalidArgument(fmt::format("{} must be the bytes of a text: contiguous uint8", name));
  }
  return {static_cast<const char*>(bytes.const_data_ptr()),
          static_cast<std::size_t>(bytes.numel())};
}

TileGrid grid_of(const TensorView& q,
                 const TensorView& k,
                 std::int64_t block_q,
                 std::int64_t block_k) {
  if (q.rank != 4 || k.rank != 4) {
    throw InvalidArgument(fmt::format(
        "q and k must have 4 dimensions [batch, heads, length, head_dim], got {} and {}", q.rank,
        k.rank));
  }
  const TileGrid grid{.batch = q.shape[0],
                      .heads = q.shape[1],
                      .q_len = q.shape[2],
                      .k_len = k.shape[2],
                      .block_q = to_int(block_q),
                      .block_k = to_int(block_k)};
  validate(grid);
  return grid;
}

TileMaskView mask_of(const std::optional<Tensor>& words, const TileGrid& grid) {
  if (!words) return {};
  if (words->scalar_type() != ScalarType::Long) {
    throw InvalidArgument(fmt::format("tiles must be int64 (the words of a TileMask), got dtype {}",
                                      torch::headeronly::toString(words->scalar_type())));
  }
  const std::array expected{grid.batch, grid.heads, grid.q_tiles(), grid.words_per_row()};
  if (!std::ranges::equal(words->sizes(), expected)) {
    throw InvalidArgument(
        fmt::format("tiles must have shape [{}] for q_len {}, k_len {} and {} x {} tiles, got [{}]",
                    fmt::join(expected, ", "), grid.q_len, grid.k_len, grid.block_q, grid.block_k,
                    fmt::join(words->sizes(), ", ")));
  }
  if (!words->is_contiguous()) {
    throw InvalidArgument("tiles must be contiguous; call .contiguous() on its words first");
  }
  return {.grid = grid, .words = static_cast<std::uint64_t*>(words->data_ptr()), .device = {}};
}

Tensor empty_words(const TileGrid& grid) {
  const std::int64_t shape[] = {grid.batch, grid.heads, grid.q_tiles(), grid.words_per_row()};
  return torch::stable::empty({shape, 4}, ScalarType::Long);
}

Tensor empty_lse(const Tensor& q) {
  const bool is_f64 = q.scalar_type() == ScalarType::Double;
  return torch::stable::empty({q.sizes().data(), 3},
                              is_f64 ? ScalarType::Double : ScalarType::Float);
}

}  // namespace saccade::python

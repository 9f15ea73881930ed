#pragma once

#include <saccade/tensor_view.h>
#include <saccade/tile_mask.h>

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace saccade::python {

// The memory of a host tensor, which must outlive the view. An optional tensor without a value
// gives the absent view; a tensor without elements does not. Throws Unsupported for a dtype that
// saccade does not know, InvalidArgument for more than four dimensions; `name` is for the message.
TensorView view_of(const torch::stable::Tensor& tensor, std::string_view name);
TensorView view_of(const std::optional<torch::stable::Tensor>& tensor, std::string_view name);

// A text, which must outlive the view: the bytes of a uint8 tensor. torch 2.13 leaks every text
// that it hands to an operator. Throws InvalidArgument.
std::string_view text_of(const torch::stable::Tensor& bytes, const char* name);

// The grid of an attention problem: q and k are [batch, heads, length, head_dim]. Throws
// InvalidArgument.
TileGrid grid_of(const TensorView& q,
                 const TensorView& k,
                 std::int64_t block_q,
                 std::int64_t block_k);

// `words` as the mask of that grid: int64 [batch, q_heads, q_tiles, ceil(k_tiles / 64)], densely
// packed; no value gives the absent mask. Throws InvalidArgument.
TileMaskView mask_of(const std::optional<torch::stable::Tensor>& words, const TileGrid& grid);

// New words for a mask of that grid, unwritten.
torch::stable::Tensor empty_words(const TileGrid& grid);

// A new lse: f32 [batch, q_heads, q_len], f64 for f64 queries.
torch::stable::Tensor empty_lse(const torch::stable::Tensor& q);

}  // namespace saccade::python

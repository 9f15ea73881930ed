#pragma once

#include <saccade/tensor_view.h>
#include <saccade/tile_mask.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>

// The single checks that validation is made of. Each throws with the name of the argument, the
// limit and the value.

namespace saccade {

// A tensor that must be there, on the host, with this shape and dtype.
void require_tensor(std::string_view name,
                    const TensorView& tensor,
                    DType dtype,
                    std::initializer_list<std::int64_t> shape);

void require_present(std::string_view name, const TensorView& tensor, int rank);
void require_host(std::string_view name, const Device& device);

// Rows of head_dim elements that lie next to each other.
void require_unit_stride(std::string_view name, const TensorView& tensor);

// Elements that a backend may write from several threads: no two of them share memory.
void require_distinct_elements(std::string_view name, const TensorView& tensor);

// A dense row-major tensor.
void require_packed(std::string_view name, const TensorView& tensor);

// A mask of this grid, on the host.
void require_mask(std::string_view name, const TileMaskView& mask, const TileGrid& grid);

// A skip threshold: not NaN, not positive.
void require_threshold(double threshold);

// A share, in [0, 1].
void require_share(std::string_view name, double share);

// Ranges within [0, length].
void require_ranges(std::string_view name, std::span<const TokenRange> ranges, std::int64_t length);

// q_heads is a multiple of k_heads.
void require_head_counts(std::int64_t q_heads, std::int64_t k_heads);

// Lengths per batch entry, if given: i32 [batch], each in [0, limit].
void require_lengths(std::string_view name,
                     const TensorView& lens,
                     std::int64_t batch,
                     std::int64_t limit);

// The scale of the logits, 1 / sqrt(head_dim) if none is given; it must be finite.
double resolve_scale(const std::optional<double>& scale, std::int64_t head_dim);

}  // namespace saccade

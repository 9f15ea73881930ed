#pragma once

#include <saccade/tensor_view.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace saccade::cli {

// Nearest value of the dtype, ties to even.
double round_to(DType dtype, double value);

// The element `offset` elements after the first, which is aligned for its dtype.
double element_at(const TensorView& view, std::int64_t offset);

// Memory that starts on a cache line. Every bit is set at first, which is NaN in all float dtypes:
// what is read but was never written, or should have been written but was not, shows.
class AlignedMemory {
 public:
  explicit AlignedMemory(std::size_t bytes);
  std::span<std::byte> bytes();

 private:
  struct alignas(64) CacheLine {
    std::byte bytes[64];
  };
  std::vector<CacheLine> lines_;
};

// How [batch, heads, length, head_dim] lies in memory.
enum class Layout {
  bhsd,    // packed
  bshd,    // packed as [batch, length, heads, head_dim]
  padded,  // bhsd with unused elements after each row, so that rows start at odd addresses
};

std::string_view name_of(Layout layout);

// A tensor that owns its memory. Elements are NaN until they are written.
class HostTensor {
 public:
  HostTensor(DType dtype, std::initializer_list<std::int64_t> shape, Layout layout = Layout::bhsd);
  HostTensor(HostTensor&&) = default;

  // Elements in row-major order of the shape, whatever the layout; rounded to the dtype.
  void fill(std::span<const double> values);
  std::vector<double> values() const;

  const TensorView& view() const { return view_; }

 private:
  AlignedMemory memory_;
  TensorView view_;
};

// i32 [batch], as q_lens and k_lens are given.
TensorView lens_view(std::span<const std::int32_t> lens);

}  // namespace saccade::cli

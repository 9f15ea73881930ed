#pragma once

#include <saccade/tensor_view.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace saccade::test {

// How the elements of a [batch, heads, length, head_dim] or [batch, heads, length] tensor lie.
enum class Layout {
  bhsd,
  bshd,
  padded,  // BHSD that starts at element 1, with gaps after every token, head and sample
};

std::string_view name_of(Layout layout);

// A tensor that owns its elements. All of its memory starts as bytes 0xFF: NaN in every float
// dtype, so that elements that were not written, and reads of the gaps, show up as NaN. It ends
// with the last element, so that an address sanitizer sees the first step beyond.
class Tensor {
 public:
  Tensor() = default;  // absent
  Tensor(DType dtype, std::vector<std::int64_t> shape, Layout layout = Layout::bhsd);

  explicit operator bool() const { return !bytes_.empty(); }

  // Calls through this view may write, as they may through every TensorView.
  TensorView view() const;

  DType dtype() const { return view_.dtype; }
  std::int64_t extent(int dimension) const { return view_.shape[dimension]; }
  std::int64_t element_count() const { return view_.element_count(); }

  // Elements by their row-major index, whatever the layout.
  double get(std::int64_t index) const;
  void set(std::int64_t index, double value);
  void set_bits(std::int64_t index, std::uint32_t bits);  // of an f32 or 16-bit element
  std::vector<double> values() const;                     // row-major
  Tensor& generate(const std::function<double()>& next);  // row-major

  std::int64_t index(std::int64_t batch,
                     std::int64_t head,
                     std::int64_t token,
                     std::int64_t d = 0) const;

  // The same values, densely packed, of another dtype.
  Tensor converted(DType dtype) const;
  // The same shape, dtype and layout, every element unwritten.
  Tensor unwritten() const;

  // The memory, gaps included.
  const std::vector<std::byte>& bytes() const { return bytes_; }
  // Whether nobody wrote at all, or between the elements.
  bool is_unwritten() const { return bytes_ == unwritten().bytes_; }
  bool gaps_are_untouched() const;

 private:
  std::int64_t offset(std::int64_t index) const;

  TensorView view_;  // without data: the bytes may move
  std::int64_t first_ = 0;
  std::vector<std::byte> bytes_;
};

}  // namespace saccade::test

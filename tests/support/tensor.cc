#include "support/tensor.h"

#include "core/element.h"

#include <algorithm>
#include <cstring>

namespace saccade::test {
namespace {

constexpr std::byte kUntouched{0xFF};

using Extents = std::array<std::int64_t, TensorView::kMaxRank>;

Extents packed_strides(const TensorView& view) {
  Extents strides{};
  std::int64_t stride = 1;
  for (int i = view.rank - 1; i >= 0; --i) {
    strides[i] = stride;
    stride *= view.shape[i];
  }
  return strides;
}

Extents strides_of(const TensorView& view, Layout layout) {
  if (view.rank < 3 || layout == Layout::bhsd) return packed_strides(view);
  const std::int64_t heads = view.shape[1];
  const std::int64_t tokens = view.shape[2];
  const std::int64_t row = view.rank == 4 ? view.shape[3] : 1;
  if (layout == Layout::bshd) return {heads * tokens * row, row, heads * row, 1};
  const std::int64_t padded_row = row + 3;
  const std::int64_t padded_head = tokens * padded_row + 5;
  return {heads * padded_head + 7, padded_head, padded_row, 1};
}

}  // namespace

std::string_view name_of(Layout layout) {
  switch (layout) {
    case Layout::bhsd:
      return "bhsd";
    case Layout::bshd:
      return "bshd";
    default:
      return "padded";
  }
}

Tensor::Tensor(DType dtype, std::vector<std::int64_t> shape, Layout layout)
    : first_(layout == Layout::padded ? 1 : 0) {
  view_.dtype = dtype;
  view_.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view_.shape.begin());
  view_.strides = strides_of(view_, layout);
  bytes_.assign((first_ + offset(element_count() - 1) + 1) * size_of(dtype), kUntouched);
}

TensorView Tensor::view() const {
  TensorView view = view_;
  if (*this) view.data = const_cast<std::byte*>(bytes_.data()) + first_ * size_of(view.dtype);
  return view;
}

std::int64_t Tensor::offset(std::int64_t index) const {
  std::int64_t offset = 0;
  for (int i = view_.rank - 1; i >= 0; --i) {
    offset += index % view_.shape[i] * view_.strides[i];
    index /= view_.shape[i];
  }
  return offset;
}

double Tensor::get(std::int64_t index) const {
  return load_element(view(), offset(index));
}

void Tensor::set(std::int64_t index, double value) {
  store_element(view(), offset(index), value);
}

void Tensor::set_bits(std::int64_t index, std::uint32_t bits) {
  const std::size_t size = size_of(dtype());
  std::memcpy(static_cast<std::byte*>(view().data) + offset(index) * size, &bits, size);
}

std::vector<double> Tensor::values() const {
  std::vector<double> values(element_count());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = get(i);
  return values;
}

Tensor& Tensor::generate(const std::function<double()>& next) {
  for (std::int64_t i = 0; i < element_count(); ++i) set(i, next());
  return *this;
}

std::int64_t Tensor::index(std::int64_t batch,
                           std::int64_t head,
                           std::int64_t token,
                           std::int64_t d) const {
  const std::int64_t row = (batch * view_.shape[1] + head) * view_.shape[2] + token;
  return view_.rank == 4 ? row * view_.shape[3] + d : row;
}

Tensor Tensor::converted(DType dtype) const {
  if (!*this) return {};
  Tensor copy(dtype, {view_.shape.begin(), view_.shape.begin() + view_.rank});
  for (std::int64_t i = 0; i < element_count(); ++i) copy.set(i, get(i));
  return copy;
}

Tensor Tensor::unwritten() const {
  Tensor copy = *this;
  std::fill(copy.bytes_.begin(), copy.bytes_.end(), kUntouched);
  return copy;
}

bool Tensor::gaps_are_untouched() const {
  const std::size_t size = size_of(dtype());
  std::vector<std::byte> gaps = bytes_;
  for (std::int64_t i = 0; i < element_count(); ++i) {
    std::fill_n(gaps.begin() + (first_ + offset(i)) * size, size, kUntouched);
  }
  return std::all_of(gaps.begin(), gaps.end(), [](std::byte b) { return b == kUntouched; });
}

}  // namespace saccade::test

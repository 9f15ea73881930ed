#include <saccade/error.h>
#include <saccade/tensor_view.h>

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <utility>

namespace saccade {
namespace {

struct DTypeTraits {
  std::string_view name;
  std::size_t size;
};

DTypeTraits traits_of(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return {"f16", 2};
    case DType::bf16:
      return {"bf16", 2};
    case DType::f32:
      return {"f32", 4};
    case DType::f64:
      return {"f64", 8};
    case DType::i32:
      return {"i32", 4};
  }
  throw InvalidArgument(
      fmt::format("dtype is {}, but must be a value of saccade::DType", static_cast<int>(dtype)));
}

void check_dimension(const TensorView& tensor, int dimension) {
  if (dimension >= 0 && dimension < tensor.rank) return;
  throw InvalidArgument(
      fmt::format("dimension {} does not exist in a tensor of rank {}; dimensions count from 0",
                  dimension, tensor.rank));
}

}  // namespace

std::size_t size_of(DType dtype) {
  return traits_of(dtype).size;
}

std::string_view name_of(DType dtype) {
  return traits_of(dtype).name;
}

TensorView TensorView::contiguous(const void* data,
                                  DType dtype,
                                  std::initializer_list<std::int64_t> shape,
                                  Device device) {
  return contiguous(data, dtype, std::span(shape.begin(), shape.size()), device);
}

TensorView TensorView::contiguous(const void* data,
                                  DType dtype,
                                  std::span<const std::int64_t> shape,
                                  Device device) {
  if (shape.size() > kMaxRank) {
    throw InvalidArgument(fmt::format("a tensor has at most {} dimensions, but {} were given",
                                      kMaxRank, shape.size()));
  }
  TensorView view;
  view.data = const_cast<void*>(data);
  view.dtype = dtype;
  view.device = device;
  view.rank = static_cast<int>(shape.size());
  std::copy(shape.begin(), shape.end(), view.shape.begin());
  std::int64_t stride = 1;
  for (int dimension = view.rank - 1; dimension >= 0; --dimension) {
    view.strides[dimension] = stride;
    stride *= view.shape[dimension];
  }
  return view;
}

TensorView TensorView::transposed(int a, int b) const {
  check_dimension(*this, a);
  check_dimension(*this, b);
  TensorView view = *this;
  std::swap(view.shape[a], view.shape[b]);
  std::swap(view.strides[a], view.strides[b]);
  return view;
}

std::int64_t TensorView::element_count() const {
  return std::accumulate(shape.begin(), shape.begin() + rank, std::int64_t{1},
                         std::multiplies<std::int64_t>{});
}

}  // namespace saccade

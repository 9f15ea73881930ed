#pragma once

#include <saccade/tensor_view.h>

#include <cstdint>

namespace saccade::cpu {

// Storage types of the 16-bit floats.
struct f16 {
  std::uint16_t bits;
};
struct bf16 {
  std::uint16_t bits;
};

// Calls f with a null pointer of the element type of `dtype`.
template <typename F>
decltype(auto) with_element(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f16:
      return f(static_cast<f16*>(nullptr));
    case DType::bf16:
      return f(static_cast<bf16*>(nullptr));
    default:
      return f(static_cast<float*>(nullptr));
  }
}

// One row of a [batch, heads, length, ...] tensor.
template <typename T>
T* row_of(const TensorView& tensor, std::int64_t batch, std::int64_t head, std::int64_t token) {
  return static_cast<T*>(tensor.data) + batch * tensor.strides[0] + head * tensor.strides[1] +
         token * tensor.strides[2];
}

}  // namespace saccade::cpu

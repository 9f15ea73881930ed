#include "core/element.h"

#include "core/half.h"

namespace saccade {

double load_element(const TensorView& tensor, std::int64_t offset) {
  switch (tensor.dtype) {
    case DType::f16:
      return f16_to_float(static_cast<const std::uint16_t*>(tensor.data)[offset]);
    case DType::bf16:
      return bf16_to_float(static_cast<const std::uint16_t*>(tensor.data)[offset]);
    case DType::f32:
      return static_cast<const float*>(tensor.data)[offset];
    case DType::f64:
      return static_cast<const double*>(tensor.data)[offset];
    case DType::i32:
      return static_cast<const std::int32_t*>(tensor.data)[offset];
  }
  return 0;
}

void store_element(const TensorView& tensor, std::int64_t offset, double value) {
  switch (tensor.dtype) {
    case DType::f16:
      static_cast<std::uint16_t*>(tensor.data)[offset] = double_to_f16(value);
      return;
    case DType::bf16:
      static_cast<std::uint16_t*>(tensor.data)[offset] = double_to_bf16(value);
      return;
    case DType::f32:
      static_cast<float*>(tensor.data)[offset] = static_cast<float>(value);
      return;
    case DType::f64:
      static_cast<double*>(tensor.data)[offset] = value;
      return;
    case DType::i32:
      static_cast<std::int32_t*>(tensor.data)[offset] = static_cast<std::int32_t>(value);
      return;
  }
}

Matrix load_head(const TensorView& tensor,
                 std::int64_t batch,
                 std::int64_t head,
                 std::int64_t rows) {
  Matrix matrix(rows, tensor.shape[3]);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t d = 0; d < matrix.columns; ++d) {
      matrix[row][d] = load_element(tensor, offset_of(tensor, batch, head, row, d));
    }
  }
  return matrix;
}

void store_head(const TensorView& tensor,
                std::int64_t batch,
                std::int64_t head,
                const Matrix& matrix) {
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    for (std::int64_t d = 0; d < matrix.columns; ++d) {
      store_element(tensor, offset_of(tensor, batch, head, row, d), matrix[row][d]);
    }
  }
}

}  // namespace saccade

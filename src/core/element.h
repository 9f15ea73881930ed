#pragma once

#include <saccade/tensor_view.h>

#include <cstdint>
#include <vector>

// Element access for code that is written for clarity, not speed: any float dtype as double.

namespace saccade {

double load_element(const TensorView& tensor, std::int64_t offset);
// Rounds to nearest even.
void store_element(const TensorView& tensor, std::int64_t offset, double value);

// Offset of an element, in elements.
template <typename... Index>
std::int64_t offset_of(const TensorView& tensor, Index... index) {
  std::int64_t offset = 0;
  int dimension = 0;
  ((offset += static_cast<std::int64_t>(index) * tensor.strides[dimension++]), ...);
  return offset;
}

// A dense matrix of doubles.
struct Matrix {
  Matrix(std::int64_t row_count, std::int64_t column_count)
      : rows(row_count), columns(column_count), values(row_count * column_count, 0.0) {}

  double* operator[](std::int64_t row) { return values.data() + row * columns; }
  const double* operator[](std::int64_t row) const { return values.data() + row * columns; }

  std::int64_t rows;
  std::int64_t columns;
  std::vector<double> values;
};

// The first `rows` tokens of one head of a [batch, heads, length, head_dim] tensor, and back.
Matrix load_head(const TensorView& tensor,
                 std::int64_t batch,
                 std::int64_t head,
                 std::int64_t rows);
void store_head(const TensorView& tensor,
                std::int64_t batch,
                std::int64_t head,
                const Matrix& matrix);

}  // namespace saccade

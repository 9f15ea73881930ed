#include "core/call.h"
#include "core/element.h"
#include "core/half.h"
#include "core/parallel.h"
#include "core/require.h"

#include <saccade/calibrate.h>
#include <saccade/error.h>

#include <fmt/format.h>

#include <cmath>

namespace saccade::lite {
namespace {

double ratio(double numerator, double denominator) {
  return numerator == 0 ? 0 : numerator / denominator;
}

// One row of head_dim elements as doubles.
void load_row(const TensorView& tensor, std::int64_t offset, std::vector<double>& row) {
  const auto copy = [&]<typename T>(const T*) {
    const T* from = static_cast<const T*>(tensor.data) + offset;
    for (std::size_t i = 0; i < row.size(); ++i) row[i] = static_cast<double>(from[i]);
  };
  if (tensor.dtype == DType::f32) return copy(static_cast<const float*>(nullptr));
  if (tensor.dtype == DType::f64) return copy(static_cast<const double*>(nullptr));
  for (std::size_t i = 0; i < row.size(); ++i) {
    row[i] = load_element(tensor, offset + static_cast<std::int64_t>(i));
  }
}

void add_row(const std::vector<double>& out, const std::vector<double>& dense, ErrorSums& sums) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double difference = out[i] - dense[i];
    sums.difference += std::abs(difference);
    sums.dense += std::abs(dense[i]);
    sums.squared_difference += difference * difference;
    sums.squared_dense += dense[i] * dense[i];
    sums.squared_out += out[i] * out[i];
    sums.product += out[i] * dense[i];
  }
}

ErrorSums errors_of_head(const TensorView& out,
                         const TensorView& dense,
                         std::int64_t batch,
                         std::int64_t head) {
  ErrorSums sums;
  std::vector<double> out_row(out.shape[3]), dense_row(out.shape[3]);
  for (std::int64_t row = 0; row < out.shape[2]; ++row) {
    load_row(out, offset_of(out, batch, head, row), out_row);
    load_row(dense, offset_of(dense, batch, head, row), dense_row);
    add_row(out_row, dense_row, sums);
  }
  return sums;
}

void require_output(const char* name, const TensorView& tensor) {
  require_present(name, tensor, 4);
  require_host(name, tensor.device);
  require_unit_stride(name, tensor);
  if (tensor.dtype == DType::i32) {
    throw InvalidArgument(fmt::format("{} is i32, but an output is f16, bf16, f32 or f64", name));
  }
}

}  // namespace

ErrorSums& ErrorSums::operator+=(const ErrorSums& other) {
  difference += other.difference;
  dense += other.dense;
  squared_difference += other.squared_difference;
  squared_dense += other.squared_dense;
  squared_out += other.squared_out;
  product += other.product;
  return *this;
}

double ErrorSums::relative_l1() const {
  return ratio(difference, dense);
}

double ErrorSums::relative_rmse() const {
  return std::sqrt(ratio(squared_difference, squared_dense));
}

double ErrorSums::cosine() const {
  if (squared_out == 0 && squared_dense == 0) return 1;
  return ratio(product, std::sqrt(squared_out) * std::sqrt(squared_dense));
}

std::vector<ErrorSums> measure_errors(const Context& context,
                                      const TensorView& out,
                                      const TensorView& dense) {
  require_output("out", out);
  require_output("dense", dense);
  require_tensor("dense", dense, dense.dtype,
                 {out.shape[0], out.shape[1], out.shape[2], out.shape[3]});
  const std::int64_t heads = out.shape[1];
  std::vector<ErrorSums> parts(out.shape[0] * heads);
  const saccade::Call call(context);
  for_each_unit(call.execution(), static_cast<std::int64_t>(parts.size()),
                [&](int, std::int64_t part) {
                  parts[part] = errors_of_head(out, dense, part / heads, part % heads);
                });
  std::vector<ErrorSums> sums(heads);
  for (std::size_t part = 0; part < parts.size(); ++part) sums[part % heads] += parts[part];
  return sums;
}

}  // namespace saccade::lite

#include "host_tensor.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace saccade::cli {
namespace {

// A 16-bit IEEE-754 binary format.
struct HalfFormat {
  int mantissa_bits;

  int exponent_limit() const { return (1 << (15 - mantissa_bits)) - 1; }
  int bias() const { return exponent_limit() / 2; }
};

constexpr HalfFormat kF16{.mantissa_bits = 10};
constexpr HalfFormat kBf16{.mantissa_bits = 7};

std::uint16_t encode(HalfFormat format, double value) {
  const int sign = std::signbit(value) ? 0x8000 : 0;
  const int infinity = format.exponent_limit() << format.mantissa_bits;
  if (std::isnan(value)) return sign | infinity | 1 << (format.mantissa_bits - 1);
  if (std::isinf(value)) return sign | infinity;
  // Subnormals and zero (whose ilogb is very negative) share the smallest exponent. A significand
  // that rounds up to the next power of two carries into the exponent field, as it should.
  const int exponent = std::max(std::ilogb(value), 1 - format.bias());
  const double significand =
      std::nearbyint(std::ldexp(std::abs(value), format.mantissa_bits - exponent));
  const int field = std::min(exponent + format.bias() - 1, format.exponent_limit());
  return sign | std::min((field << format.mantissa_bits) + static_cast<int>(significand), infinity);
}

double decode(HalfFormat format, std::uint16_t bits) {
  const double sign = bits & 0x8000 ? -1 : 1;
  const int field = (bits & 0x7fff) >> format.mantissa_bits;
  const int hidden_bit = 1 << format.mantissa_bits;
  const int mantissa = bits & (hidden_bit - 1);
  if (field == format.exponent_limit()) {
    return mantissa ? std::numeric_limits<double>::quiet_NaN()
                    : sign * std::numeric_limits<double>::infinity();
  }
  const int significand = field == 0 ? mantissa : hidden_bit + mantissa;
  return sign * std::ldexp(significand, std::max(field, 1) - format.bias() - format.mantissa_bits);
}

template <typename T>
T read(const void* data, std::int64_t offset) {
  return static_cast<const T*>(data)[offset];
}

void store(const TensorView& view, std::int64_t offset, double value) {
  switch (view.dtype) {
    case DType::f16:
      static_cast<std::uint16_t*>(view.data)[offset] = encode(kF16, value);
      return;
    case DType::bf16:
      static_cast<std::uint16_t*>(view.data)[offset] = encode(kBf16, value);
      return;
    case DType::f32:
      static_cast<float*>(view.data)[offset] = static_cast<float>(value);
      return;
    case DType::f64:
      static_cast<double*>(view.data)[offset] = value;
      return;
    case DType::i32:
      static_cast<std::int32_t*>(view.data)[offset] = static_cast<std::int32_t>(value);
      return;
  }
}

// Calls body(offset) for every element, in row-major order of the shape.
template <typename Body>
void for_each_element(const TensorView& view, Body body) {
  std::array<std::int64_t, TensorView::kMaxRank> shape{1, 1, 1, 1}, strides{};
  const int lead = TensorView::kMaxRank - view.rank;
  std::copy_n(view.shape.begin(), view.rank, shape.begin() + lead);
  std::copy_n(view.strides.begin(), view.rank, strides.begin() + lead);
  for (std::int64_t a = 0; a < shape[0]; ++a)
    for (std::int64_t b = 0; b < shape[1]; ++b)
      for (std::int64_t c = 0; c < shape[2]; ++c)
        for (std::int64_t d = 0; d < shape[3]; ++d)
          body(a * strides[0] + b * strides[1] + c * strides[2] + d * strides[3]);
}

// Odd, so that rows of 16-bit elements start at odd multiples of two bytes.
constexpr std::int64_t kRowPadding = 3;

// A view of the shape with the layout's strides, and no memory yet.
TensorView lay_out(DType dtype, std::initializer_list<std::int64_t> shape, Layout layout) {
  TensorView view = TensorView::contiguous(nullptr, dtype, shape);
  auto& [batch, heads, length, row] = view.strides;
  switch (layout) {
    case Layout::bhsd:
      break;
    case Layout::bshd:
      length = view.shape[1] * view.shape[3];
      heads = view.shape[3];
      break;
    case Layout::padded:
      length = view.shape[3] + kRowPadding;
      heads = view.shape[2] * length + kRowPadding;
      batch = view.shape[1] * heads;
      break;
  }
  return view;
}

// Bytes from the first element to the end of the last.
std::size_t extent_in_bytes(const TensorView& view) {
  std::int64_t last = 0;
  for (int i = 0; i < view.rank; ++i) last += (view.shape[i] - 1) * view.strides[i];
  return (last + 1) * size_of(view.dtype);
}

}  // namespace

double element_at(const TensorView& view, std::int64_t offset) {
  switch (view.dtype) {
    case DType::f16:
      return decode(kF16, read<std::uint16_t>(view.data, offset));
    case DType::bf16:
      return decode(kBf16, read<std::uint16_t>(view.data, offset));
    case DType::f32:
      return read<float>(view.data, offset);
    case DType::f64:
      return read<double>(view.data, offset);
    case DType::i32:
      return read<std::int32_t>(view.data, offset);
  }
  return 0;
}

double round_to(DType dtype, double value) {
  TensorView scalar = TensorView::contiguous(nullptr, dtype, {1});
  alignas(double) std::byte storage[sizeof(double)];
  scalar.data = storage;
  store(scalar, 0, value);
  return element_at(scalar, 0);
}

AlignedMemory::AlignedMemory(std::size_t bytes)
    : lines_((bytes + sizeof(CacheLine) - 1) / sizeof(CacheLine)) {
  for (CacheLine& line : lines_) std::memset(&line, 0xff, sizeof(line));
}

std::span<std::byte> AlignedMemory::bytes() {
  return std::as_writable_bytes(std::span(lines_));
}

std::string_view name_of(Layout layout) {
  switch (layout) {
    case Layout::bhsd:
      return "bhsd";
    case Layout::bshd:
      return "bshd";
    case Layout::padded:
      return "padded";
  }
  return "";
}

HostTensor::HostTensor(DType dtype, std::initializer_list<std::int64_t> shape, Layout layout)
    : memory_(extent_in_bytes(lay_out(dtype, shape, layout))),
      view_(lay_out(dtype, shape, layout)) {
  view_.data = memory_.bytes().data();
}

void HostTensor::fill(std::span<const double> values) {
  auto value = values.begin();
  for_each_element(view_, [&](std::int64_t offset) { store(view_, offset, *value++); });
}

std::vector<double> HostTensor::values() const {
  std::vector<double> values;
  values.reserve(view_.element_count());
  for_each_element(view_,
                   [&](std::int64_t offset) { values.push_back(element_at(view_, offset)); });
  return values;
}

TensorView lens_view(std::span<const std::int32_t> lens) {
  if (lens.empty()) return {};
  return TensorView::contiguous(lens.data(), DType::i32, {static_cast<std::int64_t>(lens.size())});
}

}  // namespace saccade::cli

#include "host_tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace saccade::cli {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::uint16_t bits_of(DType dtype, double value) {
  HostTensor tensor(dtype, {1});
  tensor.fill(std::vector<double>{value});
  std::uint16_t bits;
  std::memcpy(&bits, tensor.view().data, sizeof(bits));
  return bits;
}

TEST(RoundTo, EveryHalfKeepsItsBits) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    for (int bits = 0; bits < 1 << 16; ++bits) {
      HostTensor tensor(dtype, {1});
      const auto half = static_cast<std::uint16_t>(bits);
      std::memcpy(tensor.view().data, &half, sizeof(half));
      const double value = tensor.values()[0];
      if (std::isnan(value)) {
        EXPECT_TRUE(std::isnan(round_to(dtype, value)));
      } else {
        ASSERT_EQ(bits_of(dtype, value), half) << name_of(dtype) << " " << value;
      }
    }
  }
}

TEST(RoundTo, HalvesHaveTheValuesOfTheirFormats) {
  EXPECT_EQ(bits_of(DType::f16, 1), 0x3c00);
  EXPECT_EQ(bits_of(DType::f16, -65504), 0xfbff);
  EXPECT_EQ(bits_of(DType::f16, std::ldexp(1, -24)), 0x0001);
  EXPECT_EQ(bits_of(DType::bf16, 1), 0x3f80);
  EXPECT_EQ(bits_of(DType::bf16, -2), 0xc000);
  EXPECT_EQ(bits_of(DType::bf16, std::ldexp(1, -133)), 0x0001);
}

TEST(RoundTo, TiesGoToEven) {
  EXPECT_EQ(round_to(DType::bf16, 1 + 1.0 / 256), 1);
  EXPECT_EQ(round_to(DType::bf16, 1 + 3.0 / 256), 1 + 1.0 / 64);
  EXPECT_EQ(round_to(DType::f16, 2 - 1.0 / 4096), 2);
  EXPECT_EQ(round_to(DType::f16, std::ldexp(1, -25)), 0);
  EXPECT_EQ(round_to(DType::f16, 65520), kInfinity);
  EXPECT_EQ(round_to(DType::f16, 1e300), kInfinity);
  EXPECT_EQ(round_to(DType::f32, 1 + std::ldexp(1, -24)), 1);
}

TEST(HostTensor, ElementsAreNaNUntilWritten) {
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32, DType::f64}) {
    for (const double value : HostTensor(dtype, {2, 3}).values()) EXPECT_TRUE(std::isnan(value));
  }
}

TEST(HostTensor, EveryLayoutHoldsTheSameElements) {
  std::vector<double> values(2 * 3 * 5 * 4);
  std::iota(values.begin(), values.end(), 0);
  for (const Layout layout : {Layout::bhsd, Layout::bshd, Layout::padded}) {
    HostTensor tensor(DType::f32, {2, 3, 5, 4}, layout);
    tensor.fill(values);
    EXPECT_EQ(tensor.values(), values) << name_of(layout);
    EXPECT_EQ(tensor.view().strides[3], 1);
  }
}

TEST(HostTensor, LayoutsDifferInStrides) {
  const TensorView bshd = HostTensor(DType::f32, {2, 3, 5, 4}, Layout::bshd).view();
  EXPECT_EQ(bshd.strides, (std::array<std::int64_t, 4>{60, 4, 12, 1}));
  const TensorView padded = HostTensor(DType::f32, {2, 3, 5, 4}, Layout::padded).view();
  EXPECT_GT(padded.strides[2], 4);
  EXPECT_GT(padded.strides[1], 5 * padded.strides[2]);
}

}  // namespace
}  // namespace saccade::cli

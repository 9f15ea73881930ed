#include "core/half.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

// The oracle knows a format only by its number of mantissa bits: it lists every finite value and
// looks for the nearest one. Neighbours and midpoints of both formats are exact in double.

namespace saccade {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Format {
  int mantissa_bits;
  std::uint16_t (*narrow)(double);
  float (*widen)(std::uint16_t);

  std::uint16_t infinity() const {
    return static_cast<std::uint16_t>(0x8000 - (1 << mantissa_bits));
  }

  // The value of finite, nonnegative `bits`, and 2^(largest exponent + 1) for those of infinity.
  double value(int bits) const {
    const int bias = (1 << (14 - mantissa_bits)) - 1;
    const int exponent = bits >> mantissa_bits;
    const int mantissa = bits & ((1 << mantissa_bits) - 1);
    const int significand = exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits);
    return std::ldexp(significand, std::max(exponent, 1) - bias - mantissa_bits);
  }

  // values[bits] for nonnegative bits up to and including infinity: ascending.
  std::vector<double> values() const {
    std::vector<double> all;
    for (int bits = 0; bits <= infinity(); ++bits) all.push_back(value(bits));
    return all;
  }
};

std::uint16_t nearest(const std::vector<double>& values, double magnitude) {
  const auto above = std::lower_bound(values.begin(), values.end(), magnitude);
  if (above == values.end()) return static_cast<std::uint16_t>(values.size() - 1);
  const auto bits = static_cast<int>(above - values.begin());
  if (*above == magnitude) return static_cast<std::uint16_t>(bits);
  const double midpoint = (values[bits - 1] + values[bits]) / 2;
  if (magnitude == midpoint) return static_cast<std::uint16_t>(bits % 2 == 0 ? bits : bits - 1);
  return static_cast<std::uint16_t>(magnitude > midpoint ? bits : bits - 1);
}

class HalfTest : public testing::TestWithParam<Format> {
 protected:
  void expect_narrows(double value, std::uint16_t bits) {
    EXPECT_EQ(GetParam().narrow(value), bits) << std::hexfloat << value;
    EXPECT_EQ(GetParam().narrow(-value), bits | 0x8000) << std::hexfloat << -value;
  }
};

TEST_P(HalfTest, WidensEveryFiniteValueExactlyAndBack) {
  const Format format = GetParam();
  for (int bits = 0; bits < format.infinity(); ++bits) {
    ASSERT_EQ(format.widen(bits), format.value(bits)) << bits;
    ASSERT_EQ(format.widen(bits | 0x8000), -format.value(bits)) << bits;
    expect_narrows(format.value(bits), bits);
  }
  EXPECT_TRUE(std::signbit(format.widen(0x8000)));
}

TEST_P(HalfTest, RoundsOnceToNearestEven) {
  const std::vector<double> values = GetParam().values();
  for (std::size_t above = 1; above < values.size(); ++above) {
    const auto below_bits = static_cast<std::uint16_t>(above - 1);
    const auto above_bits = static_cast<std::uint16_t>(above);
    const double midpoint = (values[above - 1] + values[above]) / 2;
    expect_narrows(midpoint, above % 2 == 0 ? above_bits : below_bits);
    // One double step off the tie: lost if the value went through float first.
    expect_narrows(std::nextafter(midpoint, 0), below_bits);
    expect_narrows(std::nextafter(midpoint, kInfinity), above_bits);
  }
}

TEST_P(HalfTest, RoundsRandomDoublesToTheNearestValue) {
  const std::vector<double> values = GetParam().values();
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> significand(1, 2);
  std::uniform_int_distribution<int> exponent(-160, 140);
  for (int i = 0; i < 100000; ++i) {
    const double value = std::ldexp(significand(random), exponent(random));
    ASSERT_NO_FATAL_FAILURE(expect_narrows(value, nearest(values, value)));
  }
}

TEST_P(HalfTest, KeepsInfinityAndOverflowsToIt) {
  const Format format = GetParam();
  expect_narrows(kInfinity, format.infinity());
  expect_narrows(std::numeric_limits<double>::max(), format.infinity());
  expect_narrows(format.value(format.infinity()), format.infinity());
  EXPECT_EQ(format.widen(format.infinity()), kInfinity);
  EXPECT_EQ(format.widen(format.infinity() | 0x8000), -kInfinity);
}

TEST_P(HalfTest, UnderflowsToSignedZero) {
  expect_narrows(0.0, 0);
  expect_narrows(std::numeric_limits<double>::denorm_min(), 0);
  expect_narrows(std::numeric_limits<double>::min(), 0);
}

TEST_P(HalfTest, NaNStaysNaN) {
  const Format format = GetParam();
  for (int bits = format.infinity() + 1; bits < 0x8000; ++bits) {
    ASSERT_TRUE(std::isnan(format.widen(bits))) << bits;
    ASSERT_TRUE(std::isnan(format.widen(bits | 0x8000))) << bits;
    // The payload returns; a signalling NaN may have become quiet on the way.
    const int quiet = 1 << (format.mantissa_bits - 1);
    ASSERT_EQ(format.narrow(format.widen(bits)), bits | quiet);
  }
  EXPECT_GT(format.narrow(kNaN) & 0x7FFF, format.infinity());
  // A payload that lies below the bits that are kept.
  const double low_payload = std::bit_cast<double>(std::uint64_t{0x7FF0000000000001});
  EXPECT_GT(format.narrow(low_payload) & 0x7FFF, format.infinity());
  EXPECT_EQ(format.narrow(std::copysign(kNaN, -1)) & 0x8000, 0x8000);
}

INSTANTIATE_TEST_SUITE_P(Formats,
                         HalfTest,
                         testing::Values(Format{10, double_to_f16, f16_to_float},
                                         Format{7, double_to_bf16, bf16_to_float}),
                         [](const auto& test) {
                           return test.param.mantissa_bits == 10 ? "f16" : "bf16";
                         });

}  // namespace
}  // namespace saccade

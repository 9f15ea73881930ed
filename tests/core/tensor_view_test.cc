#include <saccade/error.h>
#include <saccade/tensor_view.h>

#include <gtest/gtest.h>

namespace saccade {
namespace {

using Extents = std::array<std::int64_t, TensorView::kMaxRank>;

TEST(DTypeTest, HasNameAndSize) {
  EXPECT_EQ(name_of(DType::f16), "f16");
  EXPECT_EQ(name_of(DType::bf16), "bf16");
  EXPECT_EQ(name_of(DType::f32), "f32");
  EXPECT_EQ(name_of(DType::f64), "f64");
  EXPECT_EQ(name_of(DType::i32), "i32");
  EXPECT_EQ(size_of(DType::f16), 2u);
  EXPECT_EQ(size_of(DType::bf16), 2u);
  EXPECT_EQ(size_of(DType::f32), sizeof(float));
  EXPECT_EQ(size_of(DType::f64), sizeof(double));
  EXPECT_EQ(size_of(DType::i32), sizeof(std::int32_t));
}

TEST(DTypeTest, RejectsValuesOutsideTheEnum) {
  EXPECT_THROW(name_of(static_cast<DType>(99)), InvalidArgument);
  EXPECT_THROW(size_of(static_cast<DType>(99)), InvalidArgument);
}

TEST(TensorViewTest, DefaultIsAbsent) {
  EXPECT_FALSE(TensorView{});
}

TEST(TensorViewTest, ContiguousIsRowMajor) {
  const double elements[2 * 3 * 4 * 5] = {};
  const TensorView view = TensorView::contiguous(elements, DType::f64, {2, 3, 4, 5});
  EXPECT_TRUE(view);
  EXPECT_EQ(view.data, elements);
  EXPECT_EQ(view.dtype, DType::f64);
  EXPECT_EQ(view.device, Device{});
  EXPECT_EQ(view.rank, 4);
  EXPECT_EQ(view.shape, (Extents{2, 3, 4, 5}));
  EXPECT_EQ(view.strides, (Extents{60, 20, 5, 1}));
  EXPECT_EQ(view.element_count(), 120);
}

TEST(TensorViewTest, ContiguousTakesFewerDimensions) {
  const std::int32_t elements[7] = {};
  const TensorView vector = TensorView::contiguous(elements, DType::i32, {7});
  EXPECT_EQ(vector.rank, 1);
  EXPECT_EQ(vector.strides[0], 1);
  EXPECT_EQ(vector.element_count(), 7);

  const TensorView scalar = TensorView::contiguous(elements, DType::i32, {});
  EXPECT_EQ(scalar.rank, 0);
  EXPECT_EQ(scalar.element_count(), 1);
}

TEST(TensorViewTest, ContiguousRejectsAFifthDimension) {
  const float element = 0;
  EXPECT_THROW(TensorView::contiguous(&element, DType::f32, {1, 1, 1, 1, 1}), InvalidArgument);
}

TEST(TensorViewTest, ContiguousKeepsTheDevice) {
  const Device device{DeviceType::cuda, 3};
  const float element = 0;
  EXPECT_EQ(TensorView::contiguous(&element, DType::f32, {1}, device).device, device);
}

TEST(TensorViewTest, TransposedAddressesTheSameElements) {
  const float elements[2 * 3 * 4 * 5] = {};
  const TensorView bshd = TensorView::contiguous(elements, DType::f32, {2, 3, 4, 5});
  const TensorView bhsd = bshd.transposed(1, 2);
  EXPECT_EQ(bhsd.data, elements);
  EXPECT_EQ(bhsd.shape, (Extents{2, 4, 3, 5}));
  EXPECT_EQ(bhsd.strides, (Extents{60, 5, 20, 1}));
  EXPECT_EQ(bhsd.element_count(), bshd.element_count());
  EXPECT_EQ(bhsd.transposed(2, 1).strides, bshd.strides);
}

TEST(TensorViewTest, TransposedRejectsDimensionsBeyondTheRank) {
  const float elements[6] = {};
  const TensorView matrix = TensorView::contiguous(elements, DType::f32, {2, 3});
  EXPECT_THROW(matrix.transposed(0, 2), InvalidArgument);
  EXPECT_THROW(matrix.transposed(-1, 0), InvalidArgument);
}

}  // namespace
}  // namespace saccade

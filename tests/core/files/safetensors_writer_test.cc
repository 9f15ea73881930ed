#include "support/expect_error.h"
#include "support/temporary_folder.h"

#include <saccade/safetensors.h>

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <numeric>
#include <string>

namespace saccade {
namespace {

using test::expect_error;
using test::read_text;
using test::TemporaryFolder;

std::span<const std::byte> bytes_of(const auto& values) {
  return std::as_bytes(std::span(values));
}

// tests/data/small.safetensors was written by the safetensors package: tests/python compares the
// two as well.
TEST(SafetensorsWriterTest, WritesTheBytesThatTheSafetensorsPackageWrites) {
  const float floats[6] = {0, 1, -2, 0.5f, std::numeric_limits<float>::quiet_NaN(), 65504};
  const double number = 1.0 / 3;
  const std::uint16_t f16[2] = {0x3c00, 0xc000}, bf16[2] = {0x3f80, 0xc000};  // 1, -2
  const std::int32_t steps[3] = {1, -2, 3};
  const std::int64_t words[2] = {-1, 7};
  const std::uint8_t flags[3] = {1, 0, 1};

  const TemporaryFolder folder;
  const auto path = folder.path() / "small.safetensors";
  write_safetensors(path,
                    {{"q", TensorView::contiguous(floats, DType::f32, {2, 3})},
                     {"scalar", TensorView::contiguous(&number, DType::f64, {})},
                     {"half", TensorView::contiguous(f16, DType::f16, {1, 2})},
                     {"brain", TensorView::contiguous(bf16, DType::bf16, {2, 1})},
                     {"steps", TensorView::contiguous(steps, DType::i32, {3})},
                     {"empty", TensorView::contiguous(nullptr, DType::f32, {0, 4})},
                     {"words \"é\"", StoredTensor{StoredDType::i64, {1, 2}, bytes_of(words)}},
                     {"flags", StoredTensor{StoredDType::boolean, {3}, bytes_of(flags)}}},
                    {{"note", "a \"quote\",\n an é"}});
  EXPECT_EQ(read_text(path), read_text(SACCADE_TEST_DATA "/small.safetensors"));
}

// Every element is its own index in row-major order, wherever it lies.
TEST(SafetensorsWriterTest, StridedTensorsAreWrittenDensely) {
  std::vector<std::int32_t> memory(4 * 5 * 7);
  std::iota(memory.begin(), memory.end(), 0);
  const TensorView dense = TensorView::contiguous(memory.data(), DType::i32, {4, 5, 7});
  TensorView backwards = dense, broadcast = dense, single = dense;
  backwards.data = memory.data() + 3 * 35;
  backwards.strides[0] = -35;
  broadcast.strides[1] = 0;
  single.shape[0] = 1;
  single.strides[0] = 12345;

  const TemporaryFolder folder;
  for (const TensorView& view :
       {dense, dense.transposed(0, 2), dense.transposed(1, 2), backwards, broadcast, single}) {
    write_safetensors(folder.path() / "x", {{"x", view}});
    const SafetensorsFile file = SafetensorsFile::open(folder.path() / "x");
    const TensorView read = file.tensor("x");
    ASSERT_EQ(read.shape, view.shape);
    for (std::int64_t i = 0; i < view.shape[0]; ++i) {
      for (std::int64_t j = 0; j < view.shape[1]; ++j) {
        for (std::int64_t k = 0; k < view.shape[2]; ++k) {
          ASSERT_EQ(
              static_cast<const std::int32_t*>(
                  read.data)[(i * view.shape[1] + j) * view.shape[2] + k],
              static_cast<const std::int32_t*>(
                  view.data)[i * view.strides[0] + j * view.strides[1] + k * view.strides[2]]);
        }
      }
    }
  }
}

// More than the block in which strided elements are gathered (1 MiB), and not a multiple of it.
TEST(SafetensorsWriterTest, LargeStridedTensorsKeepTheirOrder) {
  const std::int64_t rows = 1031, columns = 701;
  std::vector<std::uint16_t> memory(rows * columns);
  for (std::int64_t i = 0; i < rows * columns; ++i) memory[i] = static_cast<std::uint16_t>(i * 7);
  const TemporaryFolder folder;
  write_safetensors(
      folder.path() / "x",
      {{"x",
        TensorView::contiguous(memory.data(), DType::bf16, {rows, columns}).transposed(0, 1)}});
  const SafetensorsFile file = SafetensorsFile::open(folder.path() / "x");
  const auto* elements = static_cast<const std::uint16_t*>(file.tensor("x").data);
  int wrong = 0;
  for (std::int64_t column = 0; column < columns; ++column) {
    for (std::int64_t row = 0; row < rows; ++row) {
      wrong += elements[column * rows + row] != memory[row * columns + column];
    }
  }
  EXPECT_EQ(wrong, 0);
}

TEST(SafetensorsWriterTest, WhatIsReadCanBeWrittenAgain) {
  const TemporaryFolder folder;
  const SafetensorsFile file = SafetensorsFile::open(SACCADE_TEST_DATA "/small.safetensors");
  write_safetensors(folder.path() / "copy",
                    TensorSources(file.tensors().begin(), file.tensors().end()), file.metadata());
  EXPECT_EQ(read_text(folder.path() / "copy"), read_text(SACCADE_TEST_DATA "/small.safetensors"));
}

TEST(SafetensorsWriterTest, TensorsAreAlignedForTheirDTypes) {
  const double wide = 1;
  const std::uint16_t half = 2;
  const std::uint8_t byte = 3;
  const TemporaryFolder folder;
  TensorSources tensors;
  for (const char* name : {"a", "bb", "ccc"}) {
    tensors[std::string(name) + "1"] =
        StoredTensor{StoredDType::u8, {1}, {bytes_of(std::span(&byte, 1))}};
    tensors[std::string(name) + "2"] = TensorView::contiguous(&half, DType::f16, {1});
    tensors[std::string(name) + "3"] = TensorView::contiguous(&wide, DType::f64, {});
  }
  write_safetensors(folder.path() / "x", tensors);
  const SafetensorsFile file = SafetensorsFile::open(folder.path() / "x");
  for (const char* name : {"a2", "bb2", "ccc2", "a3", "bb3", "ccc3"}) {
    EXPECT_EQ(file.tensor(name).element_count(), 1);
  }
}

TEST(SafetensorsWriterTest, RefusesWhatNoFileCanHoldAndWritesNothing) {
  const float values[4] = {};
  const TensorView good = TensorView::contiguous(values, DType::f32, {4});
  TensorView on_device = good, negative = good, huge = good;
  on_device.device.type = DeviceType::cuda;
  negative.shape[0] = -1;
  huge.rank = 2;
  huge.shape = {std::int64_t{1} << 62, 0};
  const StoredTensor short_bytes{StoredDType::f32, {5}, bytes_of(values)};
  const StoredTensor half_a_byte{StoredDType::f4, {33}, bytes_of(values)};

  const TemporaryFolder folder;
  const auto refuse = [&]<typename Kind>(Kind, const test::MessageParts& message,
                                         const TensorSources& tensors,
                                         const FileMetadata& metadata) {
    expect_error<Kind>(message, [&] { write_safetensors(folder.path() / "x", tensors, metadata); });
    EXPECT_TRUE(folder.names().empty());
  };
  const InvalidArgument invalid("");
  refuse(invalid, {"\"a\"", "missing"}, {{"a", TensorView{}}}, {});
  refuse(invalid, {"\"a\"", "[-1]"}, {{"a", negative}}, {});
  refuse(invalid, {"\"a\"", "4611686018427387904"}, {{"a", huge}}, {});
  refuse(invalid, {"\"a\"", "[5]"}, {{"a", short_bytes}}, {});
  refuse(invalid, {"\"a\"", "F4", "[33]"}, {{"a", half_a_byte}}, {});
  refuse(invalid, {"__metadata__"}, {{"__metadata__", good}}, {});
  refuse(invalid, {"UTF-8"}, {{"\xff", good}}, {});
  refuse(invalid, {"UTF-8"}, {{"a", good}}, {{"key", "\xc0\x80"}});
  refuse(invalid, {"100000000"}, {}, {{"key", std::string(100'000'000, 'x')}});
  refuse(Unsupported(""), {"\"a\"", "cuda:0"}, {{"a", on_device}}, {});
}

}  // namespace
}  // namespace saccade

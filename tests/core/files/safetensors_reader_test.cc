#include "core/files/safetensors_header.h"
#include "files/safetensors_bytes.h"
#include "support/expect_error.h"
#include "support/temporary_folder.h"

#include <saccade/output_file.h>
#include <saccade/safetensors.h>

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

namespace saccade {
namespace {

using test::expect_error;
using test::MessageParts;
using test::safetensors_bytes;
using test::TemporaryFolder;

void expect_refusal(const std::vector<std::byte>& bytes, const MessageParts& message) {
  expect_error<InvalidArgument>(message, [&] { SafetensorsFile::parse(bytes); });
}

TEST(SafetensorsReaderTest, GivesNamesDTypesShapesAndElements) {
  const auto bytes = safetensors_bytes(
      R"({"b":{"dtype":"I32","shape":[2,1],"data_offsets":[0,8]},"__metadata__":{"k":"v","":"é"},)"
      R"("a":{"data_offsets":[8,12],"shape":[4],"dtype":"F8_E4M3"}}  )",
      12);
  const SafetensorsFile file = SafetensorsFile::parse(bytes);
  EXPECT_EQ(file.metadata(), (FileMetadata{{"k", "v"}, {"", "é"}}));
  ASSERT_EQ(file.tensors().size(), 2u);
  const StoredTensor& a = file.tensors().at("a");
  EXPECT_EQ(name_of(a.dtype), "F8_E4M3");
  EXPECT_EQ(a.shape, std::vector<std::int64_t>{4});
  EXPECT_EQ(a.bytes.size(), 4u);
  EXPECT_EQ(a.bytes[0], std::byte{8});
  EXPECT_EQ(file.tensors().at("b").shape, (std::vector<std::int64_t>{2, 1}));
}

TEST(SafetensorsReaderTest, EmptyFilesAndEmptyTensorsAreLegal) {
  EXPECT_TRUE(SafetensorsFile::parse(safetensors_bytes("{}", 0)).tensors().empty());
  const auto bytes = safetensors_bytes(
      R"({"x":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},"y":{"dtype":"U8","shape":[],"data_offsets":[0,1]},)"
      R"("z":{"dtype":"F16","shape":[3,0],"data_offsets":[1,1]},"__metadata__":{}})",
      1);
  const SafetensorsFile file = SafetensorsFile::parse(bytes);
  EXPECT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors().at("y").bytes.size(), 1u);
  EXPECT_EQ(file.tensors().at("z").bytes.size(), 0u);
}

TEST(SafetensorsReaderTest, RefusesWhatIsCut) {
  const auto bytes =
      safetensors_bytes(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  EXPECT_NO_THROW(SafetensorsFile::parse(bytes));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_THROW(SafetensorsFile::parse(std::span(bytes).first(size)), InvalidArgument) << size;
  }
}

TEST(SafetensorsReaderTest, RefusesHeaderLengthsBeyondTheFileAndTheLimit) {
  auto bytes = safetensors_bytes("{}", 0);
  const auto set_length = [&](std::uint64_t length) {
    std::memcpy(bytes.data(), &length, sizeof(length));
  };
  set_length(3);
  expect_refusal(bytes, {"3 bytes", "2 are left"});
  set_length(SafetensorsFile::kMaxHeaderBytes + 1);
  expect_refusal(bytes, {"100000001", "100000000"});
  set_length(~std::uint64_t{0});
  expect_refusal(bytes, {"18446744073709551615", "100000000"});
}

TEST(SafetensorsReaderTest, RefusesHeadersOfAnotherForm) {
  const struct {
    std::string header;
    MessageParts message;
  } kHeaders[] = {
      {"", {"does not start with '{'"}},
      {" {}", {"does not start with '{'"}},
      {"[]", {"does not start with '{'"}},
      {"{", {"not JSON"}},
      {"{}{}", {"not JSON"}},
      {"{},", {"not JSON"}},
      {std::string("{}\0", 3), {"zero"}},
      {"{\"\xff\":{}}", {"UTF-8"}},
      {"{'x':{}}", {"not JSON"}},
      {"{/**/}", {"not JSON"}},
      {R"({"x":null})", {"null", "\"x\""}},
      {R"({"x":7})", {"a number"}},
      {R"({"x":"y"})", {"a string"}},
      {R"({"x":[]})", {"an array"}},
      {R"({"x":{}})", {"without dtype"}},
      {R"({"x":{"dtype":{}}})", {"an object"}},
      {R"({"x":{"dtype":3}})", {"a number"}},
      {R"({"x":{"dtype":"F31"}})", {"unknown dtype", "F31"}},
      {R"({"x":{"dtype":"f32"}})", {"unknown dtype", "f32"}},
      {R"({"x":{"dtype":"F32","dtype":"F32"}})", {"\"dtype\" twice"}},
      {R"({"x":{"kind":"F32"}})", {"the field \"kind\""}},
      {R"({"x":{"shape":[[1]]}})", {"an array"}},
      {R"({"x":{"shape":[-1]}})", {"a negative number"}},
      {R"({"x":{"shape":[1.0]}})", {"no integer"}},
      {R"({"x":{"shape":[1e400]}})", {"not JSON"}},
      {R"({"x":{"shape":[9223372036854775808]}})", {"63 bits"}},
      {R"({"x":{"shape":[18446744073709551616]}})", {"no integer"}},
      {R"({"x":{"shape":["1"]}})", {"a string"}},
      {R"({"x":{"shape":[true]}})", {"a boolean"}},
      {R"({"x":{"data_offsets":[]}})", {"the end of an array"}},
      {R"({"x":{"data_offsets":[0]}})", {"the end of an array"}},
      {R"({"x":{"data_offsets":[0,0,0]}})", {"a number"}},
      {R"({"x":{"dtype":"U8","shape":[0]}})", {"without dtype, shape or data_offsets"}},
      {R"({"__metadata__":[]})", {"an array"}},
      {R"({"__metadata__":{"a":1}})", {"a number"}},
      {R"({"__metadata__":{"a":{}}})", {"an object"}},
      {R"({"__metadata__":{"a":"","a":""}})", {"\"a\" twice"}},
      {R"({"__metadata__":{},"__metadata__":{}})", {"\"__metadata__\" twice"}},
      {R"({"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
       R"("x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
       {"\"x\" twice"}},
      {std::string(100'000, '{'), {"not JSON"}},
      {R"({"x":)" + std::string(100'000, '[') + "}", {"an array"}},
  };
  for (const auto& [header, message] : kHeaders) {
    SCOPED_TRACE(header.substr(0, 80));
    expect_refusal(safetensors_bytes(header, 0), message);
  }
}

TEST(SafetensorsReaderTest, RefusesBytesThatDoNotFitTheShapes) {
  const auto u8 = [](int extent, int begin, int end) {
    return R"({"dtype":"U8","shape":[)" + std::to_string(extent) + R"(],"data_offsets":[)" +
           std::to_string(begin) + "," + std::to_string(end) + "]}";
  };
  const auto pair = [](const std::string& x, const std::string& y) {
    return R"({"x":)" + x + R"(,"y":)" + y + "}";
  };
  const struct {
    std::string header;
    std::string message;
  } kHeaders[] = {
      {pair(u8(4, 0, 4), u8(4, 4, 9)), "[4, 9], but needs 4 bytes"},
      {pair(u8(4, 4, 0), u8(4, 4, 8)), "[4, 0], but needs 4 bytes"},
      {pair(u8(4, 0, 4), u8(5, 3, 8)), "starts at byte 3 of the data, but must start at byte 4"},
      {pair(u8(3, 0, 3), u8(4, 4, 8)), "starts at byte 4 of the data, but must start at byte 3"},
      {pair(u8(4, 0, 4), u8(4, 0, 4)), "starts at byte 0 of the data, but must start at byte 4"},
      {pair(u8(4, 0, 4), u8(3, 4, 7)), "7 bytes, but 8 bytes follow"},
      {pair(u8(4, 0, 4), u8(5, 4, 9)), "9 bytes, but 8 bytes follow"},
      {R"({"x":{"dtype":"F4","shape":[15],"data_offsets":[0,8]}})", "63 bits or ends within"},
      {R"({"x":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,8]}})", "63 bits"},
      {R"({"x":{"dtype":"F32","shape":[0,9223372036854775807,2],"data_offsets":[0,0]}})",
       "63 bits"},
      {R"({"x":{"dtype":"U8","shape":[8],"data_offsets":[18446744073709551608,0]}})", "needs 8"},
  };
  for (const auto& [header, message] : kHeaders) {
    SCOPED_TRACE(header);
    expect_refusal(safetensors_bytes(header, 8), {message});
  }
}

TEST(SafetensorsReaderTest, TensorsMayStandInAnyOrder) {
  const auto bytes = safetensors_bytes(
      R"({"x":{"dtype":"U8","shape":[3],"data_offsets":[5,8]},"y":{"dtype":"U8","shape":[5],"data_offsets":[0,5]}})",
      8);
  const SafetensorsFile file = SafetensorsFile::parse(bytes);
  EXPECT_EQ(file.tensors().at("x").bytes[0], std::byte{5});
  EXPECT_EQ(file.tensors().at("y").bytes[0], std::byte{0});
}

// The file is touched at every byte with every value: it is refused or read, and what is read lies
// within it.
TEST(SafetensorsReaderTest, NoSingleByteDoesHarm) {
  const auto intact = safetensors_bytes(
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"BOOL","shape":[1,3],"data_offsets":[8,11]}})",
      11);
  int read = 0, refused = 0;
  for (std::size_t i = 0; i < intact.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      auto bytes = intact;
      bytes[i] = static_cast<std::byte>(value);
      try {
        const SafetensorsFile file = SafetensorsFile::parse(bytes);
        std::size_t sum = 0;
        for (const auto& [name, tensor] : file.tensors()) sum += tensor.bytes.size();
        EXPECT_EQ(sum, 11u);
        ++read;
      } catch (const InvalidArgument&) {
        ++refused;
      }
    }
  }
  EXPECT_GT(read, 11 * 256);  // at least the elements may be anything
  EXPECT_GT(refused, 100 * 256);
}

TEST(SafetensorsReaderTest, TensorIsAViewWithoutACopy) {
  const auto bytes =
      safetensors_bytes(R"({"x":{"dtype":"I32","shape":[2,1,3],"data_offsets":[0,24]}}     )", 24);
  const SafetensorsFile file = SafetensorsFile::parse(bytes);
  const TensorView view = file.tensor("x");
  EXPECT_EQ(view.data, bytes.data() + bytes.size() - 24);
  EXPECT_EQ(view.dtype, DType::i32);
  EXPECT_EQ(view.rank, 3);
  EXPECT_EQ(view.strides[0], 3);
  EXPECT_EQ(static_cast<const std::int32_t*>(view.data)[1], 0x07060504);
}

TEST(SafetensorsReaderTest, TensorSaysWhyThereIsNoView) {
  const auto bytes = safetensors_bytes(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},)"
      R"("c":{"dtype":"F32","shape":[1,1,1,1,0],"data_offsets":[5,5]}})",
      5);
  const SafetensorsFile file = SafetensorsFile::parse(bytes);
  expect_error<Unsupported>({"\"a\"", "U8", "BF16"}, [&] { file.tensor("a"); });
  expect_error<Unsupported>({"\"c\"", "5 dimensions", "4"}, [&] { file.tensor("c"); });
  expect_error<InvalidArgument>({"\"d\"", "3 others"}, [&] { file.tensor("d"); });
  for (const std::size_t spaces : {0, 1, 2, 3}) {
    const auto shifted = safetensors_bytes(
        R"({"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})" + std::string(spaces, ' '), 4);
    const SafetensorsFile other = SafetensorsFile::parse(shifted);
    const auto address = reinterpret_cast<std::uintptr_t>(other.tensors().at("b").bytes.data());
    if (address % 4 == 0) {
      EXPECT_EQ(other.tensor("b").element_count(), 1);
    } else {
      expect_error<Unsupported>({"\"b\"", "multiple of 4", "write the file again"},
                                [&] { other.tensor("b"); });
    }
  }
}

TEST(SafetensorsReaderTest, MessagesQuoteHostileNamesHarmlessly) {
  EXPECT_EQ(quote("a\x1b[2J\"\xff"), R"("a\u001b[2J\"\ufffd")");
  EXPECT_LT(quote(std::string(1 << 20, 'x')).size(), 100u);
}

TEST(SafetensorsReaderTest, OpensOnlyRegularFiles) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "x.safetensors";
  expect_error<FileError>({"x.safetensors", "No such file"}, [&] { SafetensorsFile::open(path); });
  expect_error<FileError>({"not a regular file"}, [&] { SafetensorsFile::open(folder.path()); });
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  expect_error<FileError>({"not a regular file"}, [&] { SafetensorsFile::open(path); });
  std::filesystem::remove(path);
  OutputFile(path).commit();
  expect_error<InvalidArgument>({"x.safetensors: ", "0 bytes are too few"},
                                [&] { SafetensorsFile::open(path); });
}

TEST(SafetensorsReaderTest, CopiesOutliveTheFirstAndAReplacedFile) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "x.safetensors";
  const std::int32_t old_value = 1, new_value = 2;
  const auto save = [&](const std::int32_t& value) {
    write_safetensors(path, {{"x", TensorView::contiguous(&value, DType::i32, {1})}});
  };
  save(old_value);
  auto first = std::make_unique<SafetensorsFile>(SafetensorsFile::open(path));
  const SafetensorsFile copy = *first;
  first.reset();
  save(new_value);
  EXPECT_EQ(*static_cast<const std::int32_t*>(copy.tensor("x").data), old_value);
  const SafetensorsFile replaced = SafetensorsFile::open(path);
  EXPECT_EQ(*static_cast<const std::int32_t*>(replaced.tensor("x").data), new_value);
}

}  // namespace
}  // namespace saccade

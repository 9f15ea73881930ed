#include "tools/tool_run.h"

#include <saccade/output_file.h>
#include <saccade/safetensors.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <limits>

namespace saccade::cli {
namespace {

const std::string kSmallFile = SACCADE_TEST_DATA "/small.safetensors";

// A file of the running test alone.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& name) : path_(temporary_path(name)) {}
  ~TemporaryFile() { std::filesystem::remove(path_); }

  const std::string& path() const { return path_; }
  std::string quoted() const { return "'" + path_ + "'"; }

 private:
  std::string path_;
};

nlohmann::json inspect(const std::string& arguments) {
  const ToolRun run = run_tool("inspect --json " + arguments);
  EXPECT_EQ(run.exit_code, 0) << run.err;
  return nlohmann::json::parse(run.out);
}

TEST(InspectCommand, ListsTensorsAndMetadata) {
  const ToolRun run = run_tool("inspect '" + kSmallFile + "'");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const char* part : {"brain", "BF16", "[2, 3]", "flags", "BOOL", "8 tensors, 71 bytes",
                           R"(words \"\u00e9\")", R"(note: a \"quote\",\n an \u00e9)"}) {
    EXPECT_TRUE(contains(run.out, part));
  }
}

TEST(InspectCommand, JsonHoldsTheValuesStatistics) {
  const auto json = inspect("'" + kSmallFile + "'");
  EXPECT_EQ(json["metadata"]["note"], "a \"quote\",\n an é");
  ASSERT_EQ(json["tensors"].size(), 8u);
  EXPECT_EQ(json["tensors"][0]["name"], "brain");
  EXPECT_EQ(json["tensors"][0]["min"], -2);
  EXPECT_EQ(json["tensors"][0]["max"], 1);
  EXPECT_EQ(json["tensors"][0]["mean"], -0.5);
  const auto& empty = json["tensors"][1];
  EXPECT_EQ(empty["shape"], (std::vector<int>{0, 4}));
  EXPECT_TRUE(empty["mean"].is_null());
  EXPECT_EQ(empty["nan"], 0);
  const auto& flags = json["tensors"][2];
  EXPECT_EQ(flags["dtype"], "BOOL");
  EXPECT_EQ(flags["bytes"], 3);
  EXPECT_FALSE(flags.contains("min"));
  const auto& q = json["tensors"][4];
  EXPECT_EQ(q["name"], "q");
  EXPECT_EQ(q["nan"], 1);
  EXPECT_EQ(q["max"], 65504);
  EXPECT_EQ(q["mean"], (0 + 1 - 2 + 0.5 + 65504) / 5);  // exact in double
}

TEST(InspectCommand, WithoutValuesOnlyTheHeaderIsRead) {
  for (const auto& tensor : inspect("--no-values '" + kSmallFile + "'")["tensors"]) {
    EXPECT_TRUE(tensor.contains("bytes"));
    EXPECT_FALSE(tensor.contains("nan"));
  }
}

// More elements than the command takes at once, the extremes at both ends, infinities and NaN.
TEST(InspectCommand, MeasuresLargeTensorsWhole) {
  constexpr std::int64_t kCount = 100'003;
  std::vector<float> values(kCount, 0.25f);
  values.front() = -std::numeric_limits<float>::infinity();
  values.back() = 8;
  values[50'000] = std::numeric_limits<float>::quiet_NaN();
  const TemporaryFile file("large.safetensors");
  write_safetensors(file.path(),
                    {{"x", TensorView::contiguous(values.data(), DType::f32, {kCount})}});
  const auto x = inspect(file.quoted())["tensors"][0];
  EXPECT_TRUE(x["min"].is_null());  // JSON has no infinity
  EXPECT_EQ(x["max"], 8);
  EXPECT_EQ(x["nan"], 1);
  EXPECT_TRUE(contains(run_tool("inspect " + file.quoted()).out, "-inf"));
}

TEST(InspectCommand, ReadsElementsThatAreNotAligned) {
  const std::string header = R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  ASSERT_NE(header.size() % 4, 0u);
  const TemporaryFile path("unaligned.safetensors");
  {
    OutputFile file(path.path());
    file.append(std::string{static_cast<char>(header.size())} + std::string(7, '\0') + header);
    file.append(std::string("\0\0\x20\x40", 4));  // 2.5
    file.commit();
  }
  EXPECT_EQ(inspect(path.quoted())["tensors"][0]["mean"], 2.5);
}

TEST(InspectCommand, SaysWhatIsWrongWithAFile) {
  const ToolRun missing = run_tool("inspect /nonexistent/x.safetensors");
  EXPECT_EQ(missing.exit_code, 1);
  EXPECT_EQ(missing.out, "");
  EXPECT_TRUE(contains(missing.err, "/nonexistent/x.safetensors: No such file"));
  const TemporaryFile text("text");
  {
    OutputFile file(text.path());
    file.append("this is no safetensors file");
    file.commit();
  }
  const ToolRun other = run_tool("inspect " + text.quoted());
  EXPECT_EQ(other.exit_code, 1);
  EXPECT_EQ(other.out, "");
  EXPECT_TRUE(contains(other.err, text.path() + ": the header has"));
  EXPECT_TRUE(contains(other.err, "no safetensors file"));
}

}  // namespace
}  // namespace saccade::cli

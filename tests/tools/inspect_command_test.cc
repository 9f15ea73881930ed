#include "tools/tool_run.h"

#include <saccade/output_file.h>
#include <saccade/safetensors.h>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <span>
#include <string>

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

TEST(InspectCommand, ShowsTheFieldsAndTheTableOfASchedule) {
  const TemporaryFile file("schedule.json");
  std::ofstream(file.path()) << R"({"version": 1, "threshold": "-inf", "num_steps": 3})";
  const ToolRun run = run_tool("inspect " + file.quoted());
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const char* part :
       {"schedule of LiteAttention", "threshold: -inf", "num_steps: 3", "every layer", "dense"}) {
    EXPECT_TRUE(contains(run.out, part));
  }
  const ToolRun json = run_tool("inspect --json " + file.quoted());
  EXPECT_EQ(nlohmann::json::parse(json.out)["threshold"], "-inf");
}

TEST(InspectCommand, SaysWhatATableOfAScheduleNeeds) {
  const TemporaryFile file("schedule.json");
  std::ofstream(file.path()) << R"({"version": 1, "dense_layers": ["a.*"]})";
  EXPECT_TRUE(contains(run_tool("inspect " + file.quoted()).out, "--layers PATH"));
  std::ofstream(file.path()) << R"({"version": 1})";
  EXPECT_TRUE(contains(run_tool("inspect " + file.quoted()).out, "No table: "));
  std::ofstream(file.path()) << "{";
  const ToolRun run = run_tool("inspect " + file.quoted());
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_TRUE(contains(run.err, "the schedule is no JSON"));
}

// A header of 123 bytes makes '{' the first byte of a file.
TEST(InspectCommand, HeadersThatLookLikeJsonAreNone) {
  const TemporaryFile file("odd.safetensors");
  const std::string header = "{\"__metadata__\":{\"k\":\"" + std::string(98, 'x') + "\"}}";
  ASSERT_EQ(header.size(), 123u);
  std::ofstream(file.path(), std::ios::binary) << std::string("{\0\0\0\0\0\0\0", 8) << header;
  EXPECT_TRUE(contains(run_tool("inspect " + file.quoted()).out, "k: xxx"));
}

TEST(InspectCommand, ShowsLayersAndStepsOfATrace) {
  const std::string path = "'" SACCADE_TEST_DATA "/demo.trace'";
  const ToolRun run = run_tool("inspect " + path);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const char* part : {"trace of WanTransformer3DModel", "10 calls of a generation of 12 steps",
                           "8 frames of 8 x 8 tokens", "transformer.blocks.2.attn1  cond", "f16",
                           "[1, 1, 512, 64]", "0,2,5,8,11", "983040"}) {
    EXPECT_TRUE(contains(run.out, part));
  }
  EXPECT_TRUE(contains(run_tool("inspect --tensors " + path).out, "30 tensors"));
  EXPECT_EQ(inspect(path)["tensors"].size(), 30u);
}

// As saccade.save_state writes it: 2 heads of 1 x 2 tiles, one of the four dropped.
TEST(InspectCommand, ShowsTheStatesOfAFile) {
  const TemporaryFile file("state.safetensors");
  const std::int64_t words[2] = {3, 2}, position[8] = {1, 2, 100, 128, 128, 64, 7, 0};
  const auto save = [&](const std::string& prefix) {
    write_safetensors(
        file.path(),
        {{prefix + "cond.mask",
          StoredTensor{StoredDType::i64, {1, 2, 1, 1}, std::as_bytes(std::span(words))}},
         {prefix + "cond.position",
          StoredTensor{StoredDType::i64, {8}, std::as_bytes(std::span(position))}}},
        {{"saccade.lite_state", "{}"}});
    return run_tool("inspect " + file.quoted());
  };
  for (const char* part :
       {"1 layers and branches", "cond", "7", "100", "128", "128 x 64", "25.0 %", "no"}) {
    EXPECT_TRUE(contains(save("").out, part));
  }
  EXPECT_TRUE(contains(save("blocks.0.attn1/").out, "blocks.0.attn1  cond"));
  EXPECT_TRUE(contains(save("").out, "ref  spent  scores"));
  EXPECT_FALSE(contains(save("").out, "yes"));
  const float scores[4] = {0, -1, -2, -3};
  write_safetensors(
      file.path(),
      {{"cond.mask", StoredTensor{StoredDType::i64, {1, 2, 1, 1}, std::as_bytes(std::span(words))}},
       {"cond.position", StoredTensor{StoredDType::i64, {8}, std::as_bytes(std::span(position))}},
       {"cond.scores",
        StoredTensor{StoredDType::f32, {1, 2, 1, 2}, std::as_bytes(std::span(scores))}}},
      {{"saccade.lite_state", "{}"}});
  EXPECT_TRUE(contains(run_tool("inspect " + file.quoted()).out, "yes"));
}

// As saccade.save_state writes those of LiteAttention(shares_masks=True): 1 x 4 tiles, three
// dropped.
TEST(InspectCommand, ShowsTheMaskThatBranchesShare) {
  const TemporaryFile file("state.safetensors");
  const std::int64_t word = 4;
  const std::int64_t position[8] = {1, 1, 100, 256, 128, 64, 7, 0};
  const StoredTensor mask{StoredDType::i64, {1, 1, 1, 1}, std::as_bytes(std::span(&word, 1))};
  const StoredTensor numbers{StoredDType::i64, {8}, std::as_bytes(std::span(position))};
  write_safetensors(file.path(),
                    {{"a.1/*.mask", mask},
                     {"a.1/*.position", numbers},
                     {"a.1/cond.position", numbers},
                     {"a.1/uncond.position", numbers}},
                    {{"saccade.lite_state", "{}"}});
  const ToolRun run = run_tool("inspect " + file.quoted());
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_TRUE(contains(run.out, "2 layers and branches"));
  const std::size_t cond = run.out.find("a.1    cond");
  ASSERT_NE(cond, std::string::npos) << run.out;
  EXPECT_TRUE(contains(run.out.substr(cond, run.out.find('\n', cond) - cond), "75.0 %"));
  EXPECT_FALSE(contains(run.out, "*"));
}

TEST(InspectCommand, RefusesStatesThatAreNone) {
  const TemporaryFile file("state.safetensors");
  std::int64_t word = 1;
  std::int64_t position[8] = {1, 2, 100, 128, 128, 64, 7, 0};
  const auto refusal = [&](std::size_t numbers) {
    write_safetensors(
        file.path(),
        {{"cond.mask", StoredTensor{StoredDType::i64, {1}, std::as_bytes(std::span(&word, 1))}},
         {"cond.position", StoredTensor{StoredDType::i64,
                                        {static_cast<std::int64_t>(numbers)},
                                        std::as_bytes(std::span(position).first(numbers))}}},
        {{"saccade.lite_state", "{}"}});
    const ToolRun run = run_tool("inspect " + file.quoted());
    EXPECT_EQ(run.exit_code, 1);
    return run.err;
  };
  EXPECT_TRUE(contains(refusal(7), "position of 8 numbers"));
  EXPECT_TRUE(contains(refusal(8), "mask of 1 words, but its grid needs 2"));
  position[4] = std::int64_t{1} << 32 | 128;
  EXPECT_TRUE(contains(refusal(8), "tiles of no known size"));
  position[4] = 96;
  EXPECT_TRUE(contains(refusal(8), "block_q"));
  position[4] = 128;
  position[1] = 1;
  word = 4;
  EXPECT_TRUE(contains(refusal(8), "bits beyond its tiles"));
  word = 3;
  position[6] = -1;
  EXPECT_TRUE(contains(refusal(8), "step -1"));
  position[6] = 0;
  position[7] = 2;
  EXPECT_TRUE(contains(refusal(8), "is_new 2"));
}

}  // namespace
}  // namespace saccade::cli

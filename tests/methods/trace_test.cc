#include "support/expect_error.h"
#include "support/temporary_folder.h"

#include <saccade/trace.h>

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

namespace saccade {
namespace {

using test::expect_error;
using test::MessageParts;
using test::TemporaryFolder;

// Calls of two layers and two branches at steps 0 and 3 of 5, whose elements count up from 0 in
// each tensor; every test spoils something else.
class TraceTest : public testing::Test {
 protected:
  static constexpr std::int64_t kTokens = 6, kHeadDim = 16;

  TraceTest() : elements_(4 * kTokens * kHeadDim) {
    std::iota(elements_.begin(), elements_.end(), 0.0f);
    for (const std::int64_t step : {0, 3}) {
      for (const char* branch : {"cond", "uncond"}) {
        for (const char* layer : {"blocks.1.attn1", "blocks.0.attn1"}) {
          calls_.push_back({step, branch, layer, 1.0 - static_cast<double>(step) / 5, tensor(4),
                            tensor(2), tensor(2)});
        }
      }
    }
  }

  TensorView tensor(std::int64_t heads, std::int64_t tokens = kTokens) const {
    return TensorView::contiguous(elements_.data(), DType::f32, {1, heads, tokens, kHeadDim});
  }

  std::filesystem::path path() const { return folder_.path() / "x.trace"; }

  void expect_invalid(const MessageParts& parts) const {
    expect_error<InvalidArgument>(parts, [&] { validate(info_, calls_); });
    expect_error<InvalidArgument>(parts, [&] { write_trace(path(), info_, calls_); });
    EXPECT_TRUE(folder_.names().empty());
  }

  // The file after `spoil`, which gets the JSON and the tensors of a legal one.
  using Spoil = std::function<void(std::string&, TensorSources&)>;
  void expect_unreadable(const MessageParts& parts, const Spoil& spoil) const {
    SCOPED_TRACE(parts.front());
    write_trace(path(), info_, calls_);
    const SafetensorsFile file = SafetensorsFile::open(path());
    std::string json = file.metadata().at(kTraceKey);
    TensorSources tensors(file.tensors().begin(), file.tensors().end());
    spoil(json, tensors);
    write_safetensors(path(), tensors, {{kTraceKey, json}});
    MessageParts all = parts;
    all.emplace_back("x.trace: ");
    expect_error<InvalidArgument>(all, [&] { Trace::open(path()); });
  }
  void expect_unreadable_json(const std::string& text,
                              const std::string& by,
                              const MessageParts& parts) const {
    expect_unreadable(parts, [&](std::string& json, TensorSources&) {
      const std::size_t at = json.find(text);
      ASSERT_NE(at, std::string::npos) << text << " is not in " << json;
      json.replace(at, text.size(), by);
    });
  }

  TemporaryFolder folder_;
  std::vector<float> elements_;
  TraceInfo info_{.model = "Model \"é\"",
                  .saccade_version = "1.2.3",
                  .num_steps = 5,
                  .token_order = "frames",
                  .scale = 0.125,
                  .video = baselines::VideoLayout{2, 1, 2, 1, 1}};
  std::vector<TraceCall> calls_;
};

TEST_F(TraceTest, GivesBackWhatWasWritten) {
  write_trace(path(), info_, calls_);
  const Trace trace = Trace::open(path());
  EXPECT_EQ(trace.info(), info_);
  EXPECT_EQ(trace.layers(), (std::vector<std::string>{"blocks.1.attn1", "blocks.0.attn1"}));
  EXPECT_EQ(trace.branches(), (std::vector<std::string>{"cond", "uncond"}));
  ASSERT_EQ(trace.calls().size(), calls_.size());
  for (std::size_t i = 0; i < calls_.size(); ++i) {
    const TraceCall& call = trace.calls()[i];
    EXPECT_EQ(call.step, calls_[i].step);
    EXPECT_EQ(call.branch, calls_[i].branch);
    EXPECT_EQ(call.layer, calls_[i].layer);
    EXPECT_EQ(call.sigma, calls_[i].sigma);
    EXPECT_EQ(call.q.shape, calls_[i].q.shape);
    EXPECT_EQ(call.k.shape, calls_[i].k.shape);
    EXPECT_EQ(static_cast<const float*>(call.q.data)[4 * kTokens * kHeadDim - 1], elements_.back());
  }
}

TEST_F(TraceTest, OptionalFactsMayBeAbsent) {
  info_ = {.num_steps = 5};
  write_trace(path(), info_, calls_);
  EXPECT_EQ(Trace::open(path()).info(), info_);
}

TEST_F(TraceTest, TensorsOfEachCallAreItsOwn) {
  const std::vector<float> others(elements_.size(), -7.0f);
  calls_[5].v.data = const_cast<float*>(others.data());
  write_trace(path(), info_, calls_);
  const Trace trace = Trace::open(path());
  for (std::size_t i = 0; i < calls_.size(); ++i) {
    EXPECT_EQ(static_cast<const float*>(trace.calls()[i].v.data)[1], i == 5 ? -7.0f : 1.0f) << i;
  }
}

TEST_F(TraceTest, StridedTensorsAreWrittenDensely) {
  calls_[0].q = TensorView::contiguous(elements_.data(), DType::f32, {1, kTokens, 4, kHeadDim})
                    .transposed(1, 2);
  write_trace(path(), info_, calls_);
  const Trace trace = Trace::open(path());
  EXPECT_EQ(static_cast<const float*>(trace.calls()[0].q.data)[kHeadDim], 4.0f * kHeadDim);
}

TEST_F(TraceTest, CopiesOutliveTheFirst) {
  write_trace(path(), info_, calls_);
  auto first = std::make_unique<Trace>(Trace::open(path()));
  const Trace copy = *first;
  first.reset();
  std::filesystem::remove(path());
  EXPECT_EQ(static_cast<const float*>(copy.calls()[3].k.data)[9], 9.0f);
}

TEST_F(TraceTest, RefusesCallsThatAreNoGeneration) {
  const std::vector<TraceCall> legal = calls_;
  const auto refuse = [&](const MessageParts& parts, auto spoil) {
    SCOPED_TRACE(parts.front());
    calls_ = legal;
    spoil(calls_);
    expect_invalid(parts);
  };
  refuse({"no calls"}, [](auto& calls) { calls.clear(); });
  refuse({"there twice", "step 0", "\"cond\""}, [](auto& calls) { calls[1] = calls[0]; });
  refuse({"after step 3", "step 2"}, [](auto& calls) { calls[7].step = 2; });
  refuse({"step 5", "num_steps - 1 = 4"}, [](auto& calls) { calls[7].step = 5; });
  refuse({"step -1"}, [](auto& calls) { calls[0].step = -1; });
  refuse({"branch is empty"}, [](auto& calls) { calls[2].branch = ""; });
  refuse({"layer is empty"}, [](auto& calls) { calls[2].layer = ""; });
  refuse({"branch holds a '/'"}, [](auto& calls) { calls[2].branch = "a/b"; });
  refuse({"layer holds a '/'"}, [](auto& calls) { calls[2].layer = "/"; });
  for (const double sigma : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    refuse({"sigma", "[0, 1]"}, [&](auto& calls) { calls[3].sigma = sigma; });
  }
}

TEST_F(TraceTest, RefusesTensorsThatAreNoAttention) {
  const std::vector<TraceCall> legal = calls_;
  const auto refuse = [&](const MessageParts& parts, auto spoil) {
    SCOPED_TRACE(parts.front());
    calls_ = legal;
    spoil(calls_[6]);
    MessageParts all = parts;
    all.emplace_back("step 3, branch \"uncond\", layer \"blocks.1.attn1\"");
    expect_invalid(all);
  };
  refuse({"q is missing"}, [](auto& call) { call.q = {}; });
  refuse({"v is missing"}, [](auto& call) { call.v = {}; });
  refuse({"k is i32"}, [](auto& call) { call.k.dtype = DType::i32; });
  refuse({"k is f64"}, [](auto& call) { call.k.dtype = DType::f64; });
  refuse({"q is f32 [1, 4, 6]"}, [](auto& call) { call.q.rank = 3; });
  refuse({"q is f32 [0, 4, 6, 16]"}, [](auto& call) { call.q.shape[0] = 0; });
  refuse({"k is f32 [1, 2, -6, 16]"}, [](auto& call) { call.k.shape[2] = -6; });
  refuse({"do not fit", "bf16"}, [](auto& call) { call.v.dtype = DType::bf16; });
  refuse({"do not fit"}, [](auto& call) { call.v.shape[1] = 1; });
  refuse({"do not fit"}, [](auto& call) { call.q.shape[1] = 3; });
  refuse({"do not fit"}, [](auto& call) { call.q.shape[3] = 8; });
  refuse({"do not fit"}, [&](auto& call) { call.q.shape[0] = 2; });
  refuse({"differ from", "of step 0"}, [](auto& call) { call.q.shape[1] = 2; });
  refuse({"differ from", "f16"},
         [](auto& call) { call.q.dtype = call.k.dtype = call.v.dtype = DType::f16; });
}

TEST_F(TraceTest, LayersMayHaveShapesOfTheirOwn) {
  info_.video.reset();
  for (TraceCall& call : calls_) {
    if (call.layer == "blocks.0.attn1") call.q = tensor(4, 3);
  }
  EXPECT_NO_THROW(validate(info_, calls_));
}

TEST_F(TraceTest, RefusesFactsThatCannotBe) {
  const TraceInfo legal = info_;
  const auto refuse = [&](const MessageParts& parts, auto spoil) {
    SCOPED_TRACE(parts.front());
    info_ = legal;
    spoil(info_);
    expect_invalid(parts);
  };
  refuse({"num_steps is 0"}, [](TraceInfo& info) { info.num_steps = 0; });
  refuse({"scale is 0"}, [](TraceInfo& info) { info.scale = 0; });
  refuse({"scale is inf"},
         [](TraceInfo& info) { info.scale = std::numeric_limits<double>::infinity(); });
  refuse({"video of 3 x 1 x 2", "has 8"}, [](TraceInfo& info) { info.video->frames = 3; });
  for (const std::int64_t extent : {std::int64_t{0}, std::int64_t{-2}, std::int64_t{1} << 62}) {
    refuse({"at least 1", "2^63"}, [&](TraceInfo& info) { info.video->frames = extent; });
  }
  refuse({"text at least 0"}, [](TraceInfo& info) { info.video->prefix = -1; });
  info_ = legal;
  info_.model = "\xff";
  expect_error<InvalidArgument>({"UTF-8"}, [&] { write_trace(path(), info_, calls_); });
  EXPECT_TRUE(folder_.names().empty());
}

TEST_F(TraceTest, EveryCallHasTheTokensOfTheVideo) {
  for (TraceCall& call : calls_) {
    if (call.layer == "blocks.0.attn1") call.k = call.v = tensor(2, 5);
  }
  expect_invalid({"blocks.0.attn1", "q has 6 tokens and k 5", "has 6"});
}

TEST_F(TraceTest, RefusesJsonThatIsNoTrace) {
  expect_unreadable_json("{", "[", {"no JSON"});
  expect_unreadable_json("\"version\":1", "\"version\":2", {"version is 2", "version 1 only"});
  expect_unreadable_json("\"version\":1", "\"model\":\"\"", {"given twice"});
  expect_unreadable_json("\"num_steps\":5,", "", {"num_steps is missing"});
  expect_unreadable_json("\"num_steps\":5", "\"num_steps\":5.5", {"num_steps is 5.5", "integer"});
  expect_unreadable_json("\"num_steps\":5", "\"num_steps\":9223372036854775808", {"64 bits"});
  expect_unreadable_json("\"num_steps\":5", "\"num_steps\":3", {"num_steps - 1 = 2"});
  expect_unreadable_json("\"scale\":0.125", "\"scale\":null", {"scale is null"});
  expect_unreadable_json("\"scale\"", "\"scales\"", {"no field \"scales\"; nearest: scale"});
  expect_unreadable_json("\"frames\":2", "\"frames\":\"2\"", {"video.frames is \"2\""});
  expect_unreadable_json("\"height\":1,", "", {"video.height is missing"});
  expect_unreadable_json("\"sigma\":1.0,", "", {"calls[0].sigma is missing"});
  expect_unreadable_json("\"sigma\":1.0", "\"sigma\":\"nan\"", {"sigma is nan"});
  expect_unreadable_json("\"branch\":\"cond\"", "\"branch\":7", {"calls[0].branch is 7", "text"});
  expect_unreadable_json("\"branch\":\"cond\"", "\"branch\":\"cind\"", {"no tensor \"0/cind/"});
  expect_unreadable({"the trace has no field version"},
                    [](std::string& json, TensorSources&) { json = "{}"; });
  expect_unreadable({"the trace is null"},
                    [](std::string& json, TensorSources&) { json = "null"; });
  expect_unreadable({"calls is 3"}, [](std::string& json, TensorSources&) {
    json =
        json.substr(0, json.find("\"calls\"")) + "\"calls\":3" + json.substr(json.find("],") + 1);
  });
  expect_unreadable({"nested"}, [](std::string& json, TensorSources&) {
    json = "{\"version\":1,\"calls\":" + std::string(100'000, '[');
  });
}

TEST_F(TraceTest, RefusesTensorsThatItsCallsDoNotName) {
  const std::string name = "0/cond/blocks.0.attn1/k";
  expect_unreadable({"no tensor \"" + name},
                    [&](std::string&, TensorSources& tensors) { tensors.erase(name); });
  expect_unreadable({"\"more\" belongs to no call"}, [&](std::string&, TensorSources& tensors) {
    tensors.emplace("more", tensor(1));
  });
  static constexpr std::byte kByte[1] = {};
  expect_unreadable({name, "U8"}, [&](std::string&, TensorSources& tensors) {
    tensors.insert_or_assign(name, StoredTensor{StoredDType::u8, {1, 1, 1, 1}, kByte});
  });
  expect_unreadable({name, "3 dimensions"}, [&](std::string&, TensorSources& tensors) {
    tensors.insert_or_assign(name, TensorView::contiguous(elements_.data(), DType::f32, {1, 2, 2}));
  });
  expect_unreadable({"k is f32 [1, 0, 6, 16]"}, [&](std::string&, TensorSources& tensors) {
    tensors.insert_or_assign(name, tensor(0));
  });
}

TEST_F(TraceTest, OtherFilesAreNoTraces) {
  write_safetensors(path(), {{"x", tensor(1)}}, {{"note", "a"}});
  EXPECT_FALSE(is_trace(SafetensorsFile::open(path())));
  expect_error<InvalidArgument>({"x.trace: this is no trace", "saccade.record"},
                                [&] { Trace::open(path()); });
  expect_error<FileError>({"nothing"}, [&] { Trace::open(folder_.path() / "nothing"); });
}

}  // namespace
}  // namespace saccade

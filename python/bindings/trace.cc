#include "ops.h"
#include "tensor_views.h"

#include <saccade/error.h>
#include <saccade/trace.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <array>
#include <filesystem>

namespace saccade::python {
namespace {

using Json = nlohmann::json;

struct Recording {
  TraceInfo info;
  std::vector<TraceCall> calls;
};

Recording recording_of(const Json& json) {
  Recording recording;
  TraceInfo& info = recording.info;
  json.at("model").get_to(info.model);
  json.at("saccade_version").get_to(info.saccade_version);
  json.at("num_steps").get_to(info.num_steps);
  json.at("token_order").get_to(info.token_order);
  if (!json.at("video").is_null()) {
    const auto extents = json.at("video").get<std::array<std::int64_t, 3>>();
    info.video = {.frames = extents[0], .height = extents[1], .width = extents[2]};
  }
  for (const Json& entry : json.at("calls")) {
    TraceCall& call = recording.calls.emplace_back();
    entry.at("step").get_to(call.step);
    entry.at("branch").get_to(call.branch);
    entry.at("layer").get_to(call.layer);
    entry.at("sigma").get_to(call.sigma);
  }
  return recording;
}

}  // namespace

void write_trace(const Tensor& path,
                 const Tensor& recording_json,
                 const std::vector<Tensor>& tensors) {
  Recording recording;
  try {
    recording = recording_of(Json::parse(text_of(recording_json, "recording")));
  } catch (const Json::exception& error) {
    throw InvalidArgument(fmt::format("recording has another form: {}", error.what()));
  }
  if (tensors.size() != 3 * recording.calls.size()) {
    throw InvalidArgument(fmt::format("{} calls need 3 tensors each, got {}",
                                      recording.calls.size(), tensors.size()));
  }
  auto tensor = tensors.begin();
  for (TraceCall& call : recording.calls) {
    call.q = view_of(*tensor++, "q");
    call.k = view_of(*tensor++, "k");
    call.v = view_of(*tensor++, "v");
  }
  saccade::write_trace(std::filesystem::path(text_of(path, "path")), recording.info,
                       recording.calls);
}

}  // namespace saccade::python

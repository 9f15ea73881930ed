#include "methods/trace/trace_header.h"

#include "core/strict_json.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <utility>

namespace saccade {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kWhat = "the trace";

// Reads the fields of one JSON object; what was not asked for is unknown.
class ObjectReader {
 public:
  ObjectReader(const Json& json, std::string path) : json_(json), path_(std::move(path)) {
    if (!json.is_object()) refuse_json(json, path_, "an object");
  }

  const Json* find(const char* name) {
    known_.emplace_back(name);
    const auto found = json_.find(name);
    return found == json_.end() ? nullptr : &*found;
  }

  const Json& get(const char* name) {
    const Json* found = find(name);
    if (found == nullptr) throw InvalidArgument(fmt::format("{} is missing", path_of(name)));
    return *found;
  }

  template <typename Value>
  void read(const char* name, Value& value) {
    read_json(get(name), path_of(name), value);
  }

  void require_no_others() const {
    require_known_fields(json_, path_.empty() ? "" : path_ + ".", known_);
  }

  std::string path_of(const char* name) const {
    return path_.empty() ? name : fmt::format("{}.{}", path_, name);
  }

 private:
  const Json& json_;
  std::string path_;
  std::vector<std::string> known_;
};

baselines::VideoLayout video_of(const Json& json) {
  ObjectReader reader(json, "video");
  baselines::VideoLayout video;
  reader.read("frames", video.frames);
  reader.read("height", video.height);
  reader.read("width", video.width);
  reader.read("prefix", video.prefix);
  reader.read("suffix", video.suffix);
  reader.require_no_others();
  return video;
}

TraceCall call_of(const Json& json, std::string path) {
  ObjectReader reader(json, std::move(path));
  TraceCall call;
  reader.read("step", call.step);
  reader.read("branch", call.branch);
  reader.read("layer", call.layer);
  reader.read("sigma", call.sigma);
  reader.require_no_others();
  return call;
}

Json to_json(const baselines::VideoLayout& video) {
  return {{"frames", video.frames},
          {"height", video.height},
          {"width", video.width},
          {"prefix", video.prefix},
          {"suffix", video.suffix}};
}

Json to_json(const TraceCall& call) {
  return {
      {"step", call.step}, {"branch", call.branch}, {"layer", call.layer}, {"sigma", call.sigma}};
}

}  // namespace

TraceHeader parse_trace_header(std::string_view text) {
  Json json = parse_json(text, kWhat);
  take_version(json, kWhat, kTraceVersion);
  TraceHeader header;
  ObjectReader reader(json, "");
  reader.read("model", header.info.model);
  reader.read("saccade_version", header.info.saccade_version);
  reader.read("num_steps", header.info.num_steps);
  reader.read("token_order", header.info.token_order);
  if (const Json* scale = reader.find("scale")) {
    read_json(*scale, "scale", header.info.scale.emplace());
  }
  if (const Json* video = reader.find("video")) header.info.video = video_of(*video);
  const Json& calls = reader.get("calls");
  reader.require_no_others();
  if (!calls.is_array()) refuse_json(calls, "calls", "a list");
  for (std::size_t i = 0; i < calls.size(); ++i) {
    header.calls.push_back(call_of(calls[i], fmt::format("calls[{}]", i)));
  }
  return header;
}

std::string to_json(const TraceInfo& info, std::span<const TraceCall> calls) {
  Json json = {{kVersionField, kTraceVersion},
               {"model", info.model},
               {"saccade_version", info.saccade_version},
               {"num_steps", info.num_steps},
               {"token_order", info.token_order},
               {"calls", Json::array()}};
  if (info.scale) json["scale"] = *info.scale;
  if (info.video) json["video"] = to_json(*info.video);
  for (const TraceCall& call : calls) json["calls"].push_back(to_json(call));
  try {
    return json.dump();
  } catch (const Json::exception& error) {
    throw InvalidArgument(fmt::format("a text of the trace is not UTF-8: {}", error.what()));
  }
}

std::string tensor_name(const TraceCall& call, std::string_view part) {
  return fmt::format("{}/{}/{}/{}", call.step, call.branch, call.layer, part);
}

}  // namespace saccade

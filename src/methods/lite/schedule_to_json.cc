#include "core/strict_json.h"
#include "methods/lite/schedule_fields.h"

#include <saccade/error.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cmath>

namespace saccade::lite {
namespace {

using Json = nlohmann::ordered_json;

Json written(double value) {
  return std::isfinite(value) ? Json(value) : Json(fmt::format("{}", value));
}

Json written(std::int64_t value) {
  return value;
}

Json written(const std::string& value) {
  return value;
}

Json written(const TokenRange& range) {
  return Json::array({range.begin, range.end});
}

template <typename Object>
Json written_object(const Object& object);

Json written(const LayerThresholds& entry) {
  return written_object(entry);
}

Json written(const Fingerprint& fingerprint) {
  return written_object(fingerprint);
}

template <typename Value>
Json written(const std::optional<Value>& value) {
  return value ? written(*value) : Json();
}

template <typename Value>
Json written(const std::vector<Value>& values) {
  Json json;
  for (const Value& value : values) json.push_back(written(value));
  return json;
}

// Without the optional fields and the lists that are empty.
template <typename Object>
Json written_object(const Object& object) {
  Json json = Json::object();
  for_each_field<Object>([&](const char* name, auto member) {
    Json value = written(object.*member);
    if (!value.is_null()) json[name] = std::move(value);
  });
  return json;
}

// Each field on a line of its own, and each object of a list.
std::string laid_out(const Json& schedule) {
  std::string text;
  for (const auto& [name, value] : schedule.items()) {
    std::string line = value.dump();
    if (value.is_array() && value.front().is_object()) {
      line.clear();
      for (const Json& entry : value) line += (line.empty() ? "" : ",\n") + ("    " + entry.dump());
      line = "[\n" + line + "\n  ]";
    }
    text += fmt::format("{}  \"{}\": {}", text.empty() ? "" : ",\n", name, line);
  }
  return "{\n" + text + "\n}\n";
}

}  // namespace

std::string to_json(const Schedule& schedule) {
  validate(schedule);
  Json json = {{kVersionField, kScheduleVersion}};
  try {
    json.update(written_object(schedule));
    return laid_out(json);
  } catch (const Json::exception& error) {
    throw InvalidArgument(fmt::format("a text of the schedule is not UTF-8: {}", error.what()));
  }
}

}  // namespace saccade::lite

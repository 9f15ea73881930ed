#include "core/strict_json.h"
#include "methods/lite/schedule_fields.h"

#include <fmt/format.h>

#include <string>
#include <tuple>
#include <type_traits>

namespace saccade::lite {
namespace {

using Json = nlohmann::json;

template <typename Object>
void read_object(const Json& json, const std::string& path, Object& object);

template <typename Value>
void read(const Json& json, const std::string& path, Value& value) {
  read_json(json, path, value);
}

void read(const Json& json, const std::string& path, TokenRange& range) {
  if (!json.is_array() || json.size() != 2) refuse_json(json, path, "[begin, end]");
  read(json[0], path + "[0]", range.begin);
  read(json[1], path + "[1]", range.end);
}

// Structs with named fields.
template <typename Object>
requires(std::tuple_size_v<std::remove_const_t<decltype(kFields<Object>)>> >
         0) void read(const Json& json, const std::string& path, Object& object) {
  read_object(json, path, object);
}

template <typename Value>
void read(const Json& json, const std::string& path, std::optional<Value>& value) {
  read(json, path, value.emplace());
}

template <typename Value>
void read(const Json& json, const std::string& path, std::vector<Value>& values) {
  if (!json.is_array()) refuse_json(json, path, "a list");
  for (std::size_t i = 0; i < json.size(); ++i) {
    read(json[i], fmt::format("{}[{}]", path, i), values.emplace_back());
  }
}

template <typename Object>
void read_object(const Json& json, const std::string& path, Object& object) {
  if (!json.is_object()) refuse_json(json, path, "an object");
  const std::string prefix = path.empty() ? "" : path + ".";
  std::vector<std::string> known;
  for_each_field<Object>([&](const char* name, auto) { known.emplace_back(name); });
  require_known_fields(json, prefix, known);
  for_each_field<Object>([&](const char* name, auto member) {
    const auto found = json.find(name);
    if (found != json.end()) read(*found, prefix + name, object.*member);
  });
}

}  // namespace

Schedule schedule_from_json(std::string_view text) {
  constexpr std::string_view kWhat = "the schedule";
  Json json = parse_json(text, kWhat);
  take_version(json, kWhat, kScheduleVersion);
  Schedule schedule;
  read_object(json, "", schedule);
  validate(schedule);
  return schedule;
}

}  // namespace saccade::lite

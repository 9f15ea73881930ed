#include "core/strict_json.h"
#include "methods/lite/schedule_fields.h"

#include <saccade/error.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <type_traits>

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

// Structs with named fields.
template <typename Object>
requires(std::tuple_size_v<std::remove_const_t<decltype(kFields<Object>)>> > 0) Json
    written(const Object& object) {
  return written_object(object);
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

bool is_list_of_objects(const Json& json) {
  return json.is_array() && json.front().is_object();
}

std::string laid_out(const Json& json, const std::string& indent);

// Each entry of an object or a list on a line of its own.
std::string spread_out(const Json& json, const std::string& indent) {
  std::string text;
  for (const auto& [name, value] : json.items()) {
    const std::string key = json.is_object() ? fmt::format("\"{}\": ", name) : "";
    text += fmt::format("{}{}  {}{}", text.empty() ? "" : ",\n", indent, key,
                        laid_out(value, indent + "  "));
  }
  const bool is_list = json.is_array();
  return fmt::format("{}\n{}\n{}{}", is_list ? "[" : "{", text, indent, is_list ? "]" : "}");
}

// Lists of objects, and objects that hold such, are spread out; anything else is one line.
std::string laid_out(const Json& json, const std::string& indent) {
  const bool is_spread = is_list_of_objects(json) ||
                         (json.is_object() && std::ranges::any_of(json, is_list_of_objects));
  return is_spread ? spread_out(json, indent) : json.dump();
}

}  // namespace

std::string to_json(const Schedule& schedule) {
  validate(schedule);
  Json json = {{kVersionField, kScheduleVersion}};
  try {
    json.update(written_object(schedule));
    return spread_out(json, "") + "\n";
  } catch (const Json::exception& error) {
    throw InvalidArgument(fmt::format("a text of the schedule is not UTF-8: {}", error.what()));
  }
}

}  // namespace saccade::lite

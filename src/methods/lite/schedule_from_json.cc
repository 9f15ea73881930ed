#include "core/nearest_name.h"
#include "methods/lite/schedule_fields.h"

#include <saccade/error.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <tuple>
#include <type_traits>

namespace saccade::lite {
namespace {

using Json = nlohmann::json;

constexpr int kDeepestNesting = 8;  // a schedule has 5

// A value as messages show it.
std::string shown(const Json& json) {
  if (json.is_array()) return "a list";
  if (json.is_object()) return "an object";
  constexpr std::size_t kLongest = 60;
  const std::string text = json.dump(-1, ' ', true);
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
}

[[noreturn]] void refuse(const Json& json, const std::string& path, const char* expected) {
  throw InvalidArgument(fmt::format("{} is {}, but must be {}", path, shown(json), expected));
}

template <typename Object>
void read_object(const Json& json, const std::string& path, Object& object);

void read(const Json& json, const std::string& path, std::int64_t& value) {
  constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const bool is_too_large = json.is_number_unsigned() && json.get<std::uint64_t>() > kLargest;
  if (!json.is_number_integer() || is_too_large) refuse(json, path, "an integer of 64 bits");
  value = json.get<std::int64_t>();
}

// JSON has no numbers for what is not finite. What is legal but "-inf" is for validate to say.
void read(const Json& json, const std::string& path, double& value) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (json.is_number()) {
    value = json.get<double>();
  } else if (json == "-inf") {
    value = -kInfinity;
  } else if (json == "inf") {
    value = kInfinity;
  } else if (json == "nan") {
    value = std::numeric_limits<double>::quiet_NaN();
  } else {
    refuse(json, path, "a number or \"-inf\"");
  }
}

void read(const Json& json, const std::string& path, std::string& value) {
  if (!json.is_string()) refuse(json, path, "a text");
  value = json.get<std::string>();
}

void read(const Json& json, const std::string& path, TokenRange& range) {
  if (!json.is_array() || json.size() != 2) refuse(json, path, "[begin, end]");
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
  if (!json.is_array()) refuse(json, path, "a list");
  for (std::size_t i = 0; i < json.size(); ++i) {
    read(json[i], fmt::format("{}[{}]", path, i), values.emplace_back());
  }
}

template <typename Object>
void require_known_fields(const Json& json, const std::string& prefix) {
  std::vector<std::string> known;
  for_each_field<Object>([&](const char* name, auto) { known.emplace_back(name); });
  for (const auto& [name, value] : json.items()) {
    if (std::ranges::find(known, name) != known.end()) continue;
    throw InvalidArgument(fmt::format("there is no field {}; nearest: {}",
                                      shown(Json(prefix + name)), nearest_name(name, known)));
  }
}

template <typename Object>
void read_object(const Json& json, const std::string& path, Object& object) {
  if (!json.is_object()) refuse(json, path.empty() ? "the schedule" : path, "an object");
  const std::string prefix = path.empty() ? "" : path + ".";
  require_known_fields<Object>(json, prefix);
  for_each_field<Object>([&](const char* name, auto member) {
    const auto found = json.find(name);
    if (found != json.end()) read(*found, prefix + name, object.*member);
  });
}

// Refuses what a parser would accept in silence: fields that are given twice, and deep nesting.
class ParserGuard {
 public:
  bool operator()(int depth, Json::parse_event_t event, const Json& json) {
    if (depth > kDeepestNesting) {
      throw InvalidArgument(
          fmt::format("the JSON is nested more than {} deep, a schedule is not", kDeepestNesting));
    }
    if (event == Json::parse_event_t::object_start) names_.emplace_back();
    if (event == Json::parse_event_t::object_end) names_.pop_back();
    if (event == Json::parse_event_t::key &&
        !names_.back().insert(json.get<std::string>()).second) {
      throw InvalidArgument(fmt::format("the field {} is given twice", shown(json)));
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> names_;  // of the objects that are open
};

// The parser quotes what it read: bytes of any kind and number, which a message must not hold.
std::string printable(std::string reason) {
  constexpr std::size_t kLongest = 200;
  reason.resize(std::min(reason.size(), kLongest));
  std::ranges::replace_if(
      reason, [](char c) { return c < ' ' || c > '~'; }, '?');
  return reason;
}

Json parsed(std::string_view text) {
  try {
    ParserGuard guard;
    return Json::parse(text, [&](int depth, Json::parse_event_t event, const Json& json) {
      return guard(depth, event, json);
    });
  } catch (const Json::exception& error) {
    throw InvalidArgument("the schedule is no JSON: " + printable(error.what()));
  }
}

void take_version(Json& json) {
  const auto found = json.find(kScheduleVersionField);
  if (found == json.end()) {
    throw InvalidArgument(
        fmt::format("the schedule has no field version; it must be {}", kScheduleVersion));
  }
  if (*found != kScheduleVersion) {
    throw InvalidArgument(fmt::format("version is {}, but this saccade reads version {} only",
                                      shown(*found), kScheduleVersion));
  }
  json.erase(kScheduleVersionField);
}

}  // namespace

Schedule schedule_from_json(std::string_view text) {
  Json json = parsed(text);
  if (!json.is_object()) refuse(json, "the schedule", "an object");
  take_version(json);
  Schedule schedule;
  read_object(json, "", schedule);
  validate(schedule);
  return schedule;
}

}  // namespace saccade::lite

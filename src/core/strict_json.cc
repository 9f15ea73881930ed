#include "core/strict_json.h"

#include "core/nearest_name.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>

namespace saccade {
namespace {

using Json = nlohmann::json;

constexpr int kDeepestNesting = 8;

class ParserGuard {
 public:
  explicit ParserGuard(std::string_view what) : what_(what) {}

  bool operator()(int depth, Json::parse_event_t event, const Json& json) {
    if (depth > kDeepestNesting) {
      throw InvalidArgument(
          fmt::format("the JSON is nested more than {} deep, {} is not", kDeepestNesting, what_));
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
  std::string_view what_;
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

}  // namespace

nlohmann::json parse_json(std::string_view text, std::string_view what) {
  try {
    ParserGuard guard(what);
    return Json::parse(text, [&](int depth, Json::parse_event_t event, const Json& json) {
      return guard(depth, event, json);
    });
  } catch (const Json::exception& error) {
    throw InvalidArgument(fmt::format("{} is no JSON: {}", what, printable(error.what())));
  }
}

std::string shown(const Json& json) {
  if (json.is_array()) return "a list";
  if (json.is_object()) return "an object";
  constexpr std::size_t kLongest = 60;
  const std::string text = json.dump(-1, ' ', true);
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
}

void refuse_json(const Json& json, const std::string& path, const char* expected) {
  throw InvalidArgument(fmt::format("{} is {}, but must be {}", path, shown(json), expected));
}

void read_json(const Json& json, const std::string& path, std::int64_t& value) {
  constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const bool is_too_large = json.is_number_unsigned() && json.get<std::uint64_t>() > kLargest;
  if (!json.is_number_integer() || is_too_large) refuse_json(json, path, "an integer of 64 bits");
  value = json.get<std::int64_t>();
}

void read_json(const Json& json, const std::string& path, double& value) {
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
    refuse_json(json, path, "a number or \"-inf\"");
  }
}

void read_json(const Json& json, const std::string& path, std::string& value) {
  if (!json.is_string()) refuse_json(json, path, "a text");
  value = json.get<std::string>();
}

void take_version(Json& json, std::string_view what, std::int64_t version) {
  if (!json.is_object()) refuse_json(json, std::string(what), "an object");
  const auto found = json.find(kVersionField);
  if (found == json.end()) {
    throw InvalidArgument(fmt::format("{} has no field version; it must be {}", what, version));
  }
  if (*found != version) {
    throw InvalidArgument(fmt::format("version is {}, but this saccade reads version {} only",
                                      shown(*found), version));
  }
  json.erase(kVersionField);
}

void require_known_fields(const Json& json,
                          const std::string& prefix,
                          std::span<const std::string> known) {
  for (const auto& [name, value] : json.items()) {
    if (std::ranges::find(known, name) != known.end()) continue;
    throw InvalidArgument(fmt::format("there is no field {}; nearest: {}",
                                      shown(Json(prefix + name)), nearest_name(name, known)));
  }
}

}  // namespace saccade

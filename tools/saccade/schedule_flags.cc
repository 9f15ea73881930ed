#include "schedule_flags.h"

#include "input_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace saccade::cli {
namespace {

using Json = nlohmann::json;
using Texts = std::vector<std::string>;

// What the library's JSON has for a number.
Json number(double value) {
  return std::isfinite(value) ? Json(value) : Json(fmt::format("{}", value));
}

Json numbers(const std::vector<double>& values) {
  Json json = Json::array();
  for (const double value : values) json.push_back(number(value));
  return json;
}

template <typename Value>
Value parse(std::string_view text, const char* expected) {
  Value value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc{} && end == text.data() + text.size()) return value;
  throw CLI::ValidationError(fmt::format("'{}' is no {}", text, expected));
}

std::pair<std::string, std::string> split(const std::string& text, char at, const char* form) {
  const std::size_t position = text.rfind(at);
  if (position == std::string::npos) {
    throw CLI::ValidationError(fmt::format("'{}' does not have the form {}", text, form));
  }
  return {text.substr(0, position), text.substr(position + 1)};
}

Json threshold_list(std::string_view text) {
  Json list = Json::array();
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    list.push_back(number(parse<double>(text.substr(begin, end - begin), "number")));
    begin = end + 1;
  }
  return list;
}

// PATTERN=T, PATTERN=steps:T,T,... or PATTERN=heads:T,T,...
Json layer_thresholds(const Texts& texts) {
  Json entries = Json::array();
  for (const std::string& text : texts) {
    const auto [layers, value] = split(text, '=', "PATTERN=THRESHOLD");
    Json entry = {{"layers", layers}};
    const std::string_view kind = std::string_view(value).substr(0, 6);
    if (kind == "steps:") {
      entry["thresholds"] = threshold_list(value.substr(6));
    } else if (kind == "heads:") {
      entry["head_thresholds"] = threshold_list(value.substr(6));
    } else {
      entry["threshold"] = number(parse<double>(value, "number"));
    }
    entries.push_back(entry);
  }
  return entries;
}

Json token_ranges(const Texts& texts) {
  Json ranges = Json::array();
  for (const std::string& text : texts) {
    const auto [begin, end] = split(text, ':', "BEGIN:END");
    ranges.push_back({parse<std::int64_t>(begin, "token"), parse<std::int64_t>(end, "token")});
  }
  return ranges;
}

Json fingerprint(const Texts& texts) {
  const Texts text_fields = {"model", "rule",        "measure",        "reference",
                             "order", "token_order", "saccade_version"};
  Json json = Json::object();
  for (const std::string& text : texts) {
    const auto [field, value] = split(text, '=', "FIELD=VALUE");
    const bool is_text = std::ranges::count(text_fields, field) > 0;
    json[field] = is_text ? Json(value) : Json(parse<std::int64_t>(value, "number"));
  }
  return json;
}

}  // namespace

template <typename Value, typename ToJson>
CLI::Option* ScheduleFlags::add(CLI::App& command,
                                std::string field,
                                const char* help,
                                ToJson to_json) {
  std::string flag = "--" + field;
  std::ranges::replace(flag, '_', '-');
  const auto keep = [this, field = std::move(field), to_json](const Value& value) {
    fields_[field] = to_json(value);
  };
  return command.add_option_function<Value>(flag, keep, help)->group("Schedule");
}

ScheduleFlags::ScheduleFlags(CLI::App& command) {
  command.add_option("--from", file_, "Start from the schedule of this JSON file")
      ->check(CLI::ExistingFile)
      ->group("Schedule");
  add_thresholds(command);
  add_dense(command);
  add_ranges(command);
  add<Texts>(command, "fingerprint", "What it was made for: FIELD=VALUE, repeatable", fingerprint);
}

void ScheduleFlags::add_thresholds(CLI::App& command) {
  using Numbers = std::vector<double>;
  add<double>(command, "threshold", "At most 0, log2 units; -inf drops nothing", number);
  add<Numbers>(command, "thresholds", "One for each step", numbers)->delimiter(',');
  add<Numbers>(command, "head_thresholds", "One for each query head", numbers)->delimiter(',');
  add<Texts>(
      command, "layer_thresholds",
      "PATTERN=T, PATTERN=steps:T,T,... or PATTERN=heads:T,T,...; repeatable, the last match "
      "wins",
      layer_thresholds);
}

void ScheduleFlags::add_dense(CLI::App& command) {
  const auto as_it_is = [](const auto& value) { return Json(value); };
  const auto add_count = [&](const char* field, const char* help) {
    add<std::int64_t>(command, field, help, as_it_is);
  };
  add_count("dense_first_steps", "Steps at the start that compute every tile");
  add_count("dense_last_steps", "Steps at the end that do; needs --num-steps");
  add<double>(command, "dense_first_sigma", "Dense while sigma is at least this", number);
  add<double>(command, "dense_last_sigma", "Dense while sigma is less than this", number);
  add_count("num_steps", "Steps of a generation");
  add<Texts>(command, "dense_layers", "Patterns of the layers that stay dense", as_it_is)
      ->delimiter(',');
  add_count("min_length", "Dense below this many tokens");
}

void ScheduleFlags::add_ranges(CLI::App& command) {
  const auto add_range = [&](const char* field, const char* help) {
    add<Texts>(command, field, help, token_ranges)->delimiter(',');
  };
  add_range("must_do_queries", "Query tokens that are never skipped: BEGIN:END,BEGIN:END,...");
  add_range("must_do_keys", "Key tokens that are never skipped");
  add_range("must_skip_queries", "Query tokens that are never computed");
  add_range("must_skip_keys", "Key tokens that are never computed");
}

lite::Schedule ScheduleFlags::schedule() const {
  const lite::Schedule base =
      file_.empty() ? lite::Schedule{} : lite::schedule_from_json(read_file(file_));
  Json json = Json::parse(lite::to_json(base));
  json.merge_patch(fields_);
  return lite::schedule_from_json(json.dump());
}

}  // namespace saccade::cli

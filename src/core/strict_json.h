#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// JSON from anywhere, read field by field into what it must be. `path` names a value in messages,
// such as "calls[3].step". Everything throws InvalidArgument and nothing else.

namespace saccade {

// Refuses what a parser would accept in silence: fields that are given twice, and nesting more than
// 8 deep. `what` names the text, such as "the schedule".
nlohmann::json parse_json(std::string_view text, std::string_view what);

// A value as messages show it: ASCII, and no longer than a line.
std::string shown(const nlohmann::json& json);

[[noreturn]] void refuse_json(const nlohmann::json& json,
                              const std::string& path,
                              const char* expected);

void read_json(const nlohmann::json& json, const std::string& path, std::int64_t& value);
// JSON has no numbers for what is not finite: "-inf", "inf" and "nan" stand for them.
void read_json(const nlohmann::json& json, const std::string& path, double& value);
void read_json(const nlohmann::json& json, const std::string& path, std::string& value);

inline constexpr const char* kVersionField = "version";

// The field of that name, which is taken out, must be there and be this number.
void take_version(nlohmann::json& json, std::string_view what, std::int64_t version);

// Refuses fields of an object that are none of `known`. `prefix` goes before their names.
void require_known_fields(const nlohmann::json& json,
                          const std::string& prefix,
                          std::span<const std::string> known);

}  // namespace saccade

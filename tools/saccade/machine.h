#pragma once

#include <nlohmann/json.hpp>

#include <string>

namespace saccade::cli {

// The CPU's name for itself, or "unknown".
std::string cpu_model();

// Environment variables that saccade reads, in the order in which they are documented.
inline constexpr const char* kEnvironmentVariables[] = {"SACCADE_BACKEND", "SACCADE_CPU_TARGET",
                                                        "SACCADE_NUM_THREADS"};

// What a measurement must be filed under: version and commit of the library, CPU model, instruction
// sets (the first is in use), and the environment variables above (null = not set).
nlohmann::ordered_json describe_machine();

}  // namespace saccade::cli

#pragma once

#include <saccade/lite_schedule.h>

#include <filesystem>
#include <string>

namespace saccade::cli {

// Whether a file is text in braces rather than a safetensors file, whose header has a length before
// it.
bool is_json_object(const std::filesystem::path& path);

// The fields of a schedule, and its table where it says enough for one.
std::string describe(const lite::Schedule& schedule);

}  // namespace saccade::cli

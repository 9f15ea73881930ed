#pragma once

#include <filesystem>
#include <string>

namespace saccade::cli {

// The bytes of a file. Throws std::runtime_error where it cannot be read.
std::string read_file(const std::filesystem::path& path);

}  // namespace saccade::cli

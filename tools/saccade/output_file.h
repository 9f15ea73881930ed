#pragma once

#include <filesystem>
#include <fstream>
#include <string_view>

namespace saccade::cli {

// A file that appears under its name only when it is complete. Throws std::runtime_error where it
// cannot be written: at once, not after a long measurement.
class OutputFile {
 public:
  explicit OutputFile(std::filesystem::path path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Writes the text and gives the file its name, replacing what bears it.
  void write(std::string_view text);

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  std::ofstream stream_;
};

}  // namespace saccade::cli

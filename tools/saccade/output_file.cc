#include "output_file.h"

#include <fmt/format.h>

#include <stdexcept>
#include <system_error>

namespace saccade::cli {

OutputFile::OutputFile(std::filesystem::path path)
    : path_(std::move(path)), temporary_(path_.string() + ".partial"), stream_(temporary_) {
  if (!stream_) throw std::runtime_error(fmt::format("cannot write {}", temporary_.string()));
}

OutputFile::~OutputFile() {
  std::error_code gone_already;
  std::filesystem::remove(temporary_, gone_already);
}

void OutputFile::write(std::string_view text) {
  stream_ << text;
  stream_.close();
  if (!stream_) throw std::runtime_error(fmt::format("cannot write {}", temporary_.string()));
  std::filesystem::rename(temporary_, path_);
}

}  // namespace saccade::cli

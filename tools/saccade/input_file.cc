#include "input_file.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>
#include <stdexcept>

namespace saccade::cli {

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << stream.rdbuf();
  if (!stream || !bytes) throw std::runtime_error(fmt::format("cannot read {}", path.string()));
  return std::move(bytes).str();
}

}  // namespace saccade::cli

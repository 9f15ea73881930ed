#include "core/files/file_descriptor.h"

#include <saccade/error.h>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace saccade {

void throw_file_error(std::string_view action, const std::filesystem::path& path) {
  throw FileError(fmt::format("cannot {} {}: {}", action, path.string(),
                              std::generic_category().message(errno)));
}

FileDescriptor::FileDescriptor(const std::filesystem::path& path, int flags)
    : descriptor_(::open(path.c_str(), flags | O_CLOEXEC)) {
  if (descriptor_ < 0) throw_file_error("open", path);
}

FileDescriptor::~FileDescriptor() {
  ::close(descriptor_);
}

}  // namespace saccade

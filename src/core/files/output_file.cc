#include "core/files/file_descriptor.h"

#include <saccade/error.h>
#include <saccade/output_file.h>

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace saccade {
namespace {

namespace fs = std::filesystem;

void require_replaceable(const fs::path& path) {
  std::error_code unknown;
  const fs::file_status status = fs::status(path, unknown);
  if (!fs::exists(status) || fs::is_regular_file(status)) return;
  throw FileError(fmt::format("cannot write {}: it is not a regular file", path.string()));
}

// A rename is on the disk when its folder is. File systems that cannot do that say EINVAL.
void sync_folder_of(const fs::path& path) {
  const fs::path folder = path.has_parent_path() ? path.parent_path() : ".";
  const FileDescriptor descriptor(folder, O_RDONLY | O_DIRECTORY);
  if (::fsync(descriptor.get()) != 0 && errno != EINVAL) throw_file_error("sync", folder);
}

}  // namespace

OutputFile::OutputFile(fs::path path) : path_(std::move(path)) {
  require_replaceable(path_);
  constexpr mode_t kReadableByAll = 0666;  // less what umask says
  for (int taken = 0; descriptor_ < 0; ++taken) {
    temporary_ = path_;
    temporary_ += taken == 0 ? ".partial" : fmt::format(".partial{}", taken);
    descriptor_ =
        ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kReadableByAll);
    if (descriptor_ < 0 && errno != EEXIST) throw_file_error("write", temporary_);
  }
}

OutputFile::~OutputFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void OutputFile::append(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written >= 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    } else if (errno != EINTR) {
      throw_file_error("write", temporary_);
    }
  }
}

void OutputFile::append(std::string_view text) {
  append(std::as_bytes(std::span(text)));
}

void OutputFile::commit() {
  if (::fsync(descriptor_) != 0) throw_file_error("write", temporary_);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw_file_error("write", path_);
  ::close(std::exchange(descriptor_, -1));
  sync_folder_of(path_);
}

}  // namespace saccade

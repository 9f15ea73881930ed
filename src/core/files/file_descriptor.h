#pragma once

#include <filesystem>
#include <string_view>

namespace saccade {

// Throws FileError: "cannot <action> <path>: <what errno says>".
[[noreturn]] void throw_file_error(std::string_view action, const std::filesystem::path& path);

// An open file of the system, closed at the end.
class FileDescriptor {
 public:
  // `flags` as for open(2). Throws FileError.
  FileDescriptor(const std::filesystem::path& path, int flags);
  ~FileDescriptor();
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

}  // namespace saccade

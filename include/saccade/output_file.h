#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace saccade {

// A file that appears under its name only when it is complete. Whatever happens before commit() has
// returned - an exception, kill -9, a power cut - the name stands for all of the old file or all of
// the new one. Every function throws FileError where the system refuses.
class OutputFile {
 public:
  // Makes PATH.partial beside the file, or the first of PATH.partial1, PATH.partial2, ... where
  // that is taken: by another writer, or by one that was killed. Refuses at once, not after long
  // work: a folder that cannot be written, and a path that names something other than a regular
  // file.
  explicit OutputFile(std::filesystem::path path);
  ~OutputFile();  // without commit(), nothing stays behind
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  // Not buffered: each call is a system call at least.
  void append(std::span<const std::byte> bytes);
  void append(std::string_view text);

  // Brings the file to the disk and gives it its name, replacing what bears it. The last call.
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;  // -1 once committed
};

}  // namespace saccade

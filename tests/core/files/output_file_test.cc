#include "support/expect_error.h"
#include "support/temporary_folder.h"

#include <saccade/output_file.h>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <set>
#include <stdexcept>
#include <string>

namespace saccade {
namespace {

using test::expect_error;
using test::read_text;
using test::TemporaryFolder;
using Names = std::set<std::string>;

void save(const std::filesystem::path& path, std::string_view text) {
  OutputFile file(path);
  file.append(text);
  file.commit();
}

TEST(OutputFileTest, AppearsWhenItIsComplete) {
  const TemporaryFolder folder;
  OutputFile file(folder.path() / "a.json");
  EXPECT_EQ(folder.names(), Names{"a.json.partial"});
  file.append("one ");
  file.append("two");
  EXPECT_EQ(folder.names(), Names{"a.json.partial"});
  file.commit();
  EXPECT_EQ(folder.names(), Names{"a.json"});
  EXPECT_EQ(read_text(folder.path() / "a.json"), "one two");
}

TEST(OutputFileTest, WithoutCommitTheOldFileStays) {
  const TemporaryFolder folder;
  save(folder.path() / "a", "old");
  try {
    OutputFile file(folder.path() / "a");
    file.append("new");
    throw std::runtime_error("on the way");
  } catch (const std::runtime_error&) {
  }
  EXPECT_EQ(folder.names(), Names{"a"});
  EXPECT_EQ(read_text(folder.path() / "a"), "old");
}

TEST(OutputFileTest, ReplacesAShorterAndALongerFile) {
  const TemporaryFolder folder;
  for (const char* text : {"ab", "abcdef", "", "c"}) {
    save(folder.path() / "a", text);
    EXPECT_EQ(read_text(folder.path() / "a"), text);
  }
}

TEST(OutputFileTest, TwoWritersOfOneNameDoNotMix) {
  const TemporaryFolder folder;
  OutputFile first(folder.path() / "a"), second(folder.path() / "a");
  EXPECT_EQ(folder.names(), (Names{"a.partial", "a.partial1"}));
  first.append("first");
  second.append("second");
  second.commit();
  EXPECT_EQ(read_text(folder.path() / "a"), "second");
  first.commit();
  EXPECT_EQ(read_text(folder.path() / "a"), "first");
  EXPECT_EQ(folder.names(), Names{"a"});
}

TEST(OutputFileTest, WhatAKilledWriterLeftIsNotTouched) {
  const TemporaryFolder folder;
  save(folder.path() / "a.partial", "left");
  save(folder.path() / "a", "new");
  EXPECT_EQ(read_text(folder.path() / "a.partial"), "left");
  EXPECT_EQ(read_text(folder.path() / "a"), "new");
}

TEST(OutputFileTest, IsReadableAsUmaskSays) {
  const TemporaryFolder folder;
  const mode_t mask = umask(027);
  save(folder.path() / "a", "text");
  umask(mask);
  struct stat status {};
  ASSERT_EQ(stat((folder.path() / "a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640u);
}

TEST(OutputFileTest, TakesARelativePath) {
  const std::string name = "output_file_test_of_a_relative_path";
  save(name, "text");
  EXPECT_EQ(read_text(name), "text");
  std::filesystem::remove(name);
}

TEST(OutputFileTest, RefusesWhatIsNoRegularFileAtOnce) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder.path() / "folder");
  expect_error<FileError>({"folder", "not a regular file"},
                          [&] { OutputFile(folder.path() / "folder"); });
  expect_error<FileError>({"/dev/null", "not a regular file"}, [] { OutputFile("/dev/null"); });
  expect_error<FileError>({"/nonexistent/a", "No such file"}, [] { OutputFile("/nonexistent/a"); });
  EXPECT_EQ(folder.names(), Names{"folder"});
}

// A limit on the size of files stands for a full disk: the write that crosses it is cut short, and
// the next one fails.
TEST(OutputFileTest, AFullDiskIsAnErrorAndTheOldFileStays) {
  const TemporaryFolder folder;
  save(folder.path() / "a", "old");
  rlimit unlimited{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &unlimited), 0);
  const auto on_excess = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{.rlim_cur = 1000, .rlim_max = unlimited.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  expect_error<FileError>({"a.partial", "too large"},
                          [&] { save(folder.path() / "a", std::string(2000, 'x')); });
  setrlimit(RLIMIT_FSIZE, &unlimited);
  std::signal(SIGXFSZ, on_excess);
  EXPECT_EQ(folder.names(), Names{"a"});
  EXPECT_EQ(read_text(folder.path() / "a"), "old");
}

}  // namespace
}  // namespace saccade

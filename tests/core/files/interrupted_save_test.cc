#include "support/temporary_folder.h"

#include <saccade/output_file.h>
#include <saccade/safetensors.h>

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <random>
#include <string>
#include <vector>

namespace saccade {
namespace {

// What the saving process has come to, in memory that outlives it.
struct Progress {
  std::atomic<int> begun{0};
  std::atomic<int> saved{0};
};

// Generation g of a file with tensors, as states are saved: this many numbers g, and g in the
// metadata.
struct Tensors {
  static constexpr std::int64_t kElements = 1 << 18;

  static void save(const std::filesystem::path& path, int generation) {
    const std::vector<std::int32_t> elements(kElements, generation);
    write_safetensors(path,
                      {{"x", TensorView::contiguous(elements.data(), DType::i32, {kElements})}},
                      {{"generation", std::to_string(generation)}});
  }

  // The generation that the file holds; fails unless it is whole.
  static int read(const std::filesystem::path& path) {
    const SafetensorsFile file = SafetensorsFile::open(path);
    const TensorView view = file.tensor("x");
    const auto* elements = static_cast<const std::int32_t*>(view.data);
    EXPECT_EQ(view.element_count(), kElements);
    EXPECT_EQ(std::count(elements, elements + kElements, elements[0]), kElements);
    EXPECT_EQ(file.metadata().at("generation"), std::to_string(elements[0]));
    return elements[0];
  }
};

// The same of a text, as schedules are saved: this many lines, each g.
struct Text {
  static constexpr int kLines = 1000;

  static std::string of(int generation) {
    std::string text;
    for (int i = 0; i < kLines; ++i) text += std::to_string(generation) + "\n";
    return text;
  }

  static void save(const std::filesystem::path& path, int generation) {
    OutputFile file(path);
    file.append(of(generation));
    file.commit();
  }

  static int read(const std::filesystem::path& path) {
    const std::string text = test::read_text(path);
    const int generation = std::stoi(text);
    EXPECT_EQ(text, of(generation));
    return generation;
  }
};

// Ends the process where saving fails: an exception would bring the child back into the tests.
template <typename Contents>
[[noreturn]] void save_for_ever(const std::filesystem::path& path, Progress& progress) noexcept {
  for (int generation = progress.saved + 1;; ++generation) {
    progress.begun = generation;
    Contents::save(path, generation);
    progress.saved = generation;
  }
}

template <typename Contents>
class InterruptedSaveTest : public testing::Test {};

using AllContents = testing::Types<Tensors, Text>;
TYPED_TEST_SUITE(InterruptedSaveTest, AllContents);

// kill -9 at random moments: the file is the one that was saved last, or the one that was being
// saved, and whole.
TYPED_TEST(InterruptedSaveTest, LeavesTheOldFileOrTheNewOne) {
  const test::TemporaryFolder folder;
  const auto path = folder.path() / "file";
  void* shared =
      mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto& progress = *new (shared) Progress;
  std::mt19937 random(1);
  int interrupted = 0;
  constexpr int kKills = 200;
  for (int kill_number = 0; kill_number < kKills; ++kill_number) {
    const int begun_before = progress.begun;
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) save_for_ever<TypeParam>(path, progress);
    while (progress.begun == begun_before) {
      ASSERT_EQ(waitpid(child, nullptr, WNOHANG), 0) << "the saving process has ended";
      usleep(100);
    }
    usleep(std::uniform_int_distribution<int>(0, 5000)(random));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);

    if (progress.saved == 0 && !std::filesystem::exists(path)) continue;
    const int generation = TypeParam::read(path);
    ASSERT_GE(generation, progress.saved);
    ASSERT_LE(generation, progress.begun);
    for (const std::string& name : folder.names()) {
      if (name == path.filename()) continue;
      ++interrupted;
      std::filesystem::remove(folder.path() / name);
    }
    progress.saved = generation;
    progress.begun = generation;
  }
  EXPECT_GT(progress.saved, 0);
  EXPECT_GT(interrupted, 0);  // or nothing was tested
  munmap(shared, sizeof(Progress));
}

}  // namespace
}  // namespace saccade

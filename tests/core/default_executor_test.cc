#include <saccade/error.h>
#include <saccade/executor.h>

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>

#ifdef __linux__
#include <sched.h>
#endif

namespace saccade {
namespace {

// The environment is read once, so each case needs a process of its own.
class DefaultExecutorDeathTest : public testing::Test {
 protected:
  DefaultExecutorDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }

  // Ends the process: 0 if default_executor() has `expected` workers, and they work.
  [[noreturn]] static void check_workers(const char* setting, int expected) {
    setenv("SACCADE_NUM_THREADS", setting, 1);
    Executor& executor = default_executor();
    std::atomic<int> calls = 0;
    executor.run(7, [&](int) { ++calls; });
    const bool is_right = executor.max_workers() == expected && calls == 7;
    _exit(is_right && &executor == &default_executor() ? 0 : 1);
  }

  // Ends the process: 0 if default_executor() says exactly this, twice.
  [[noreturn]] static void check_message(const char* setting, const std::string& expected) {
    setenv("SACCADE_NUM_THREADS", setting, 1);
    for (int attempt = 0; attempt < 2; ++attempt) {
      try {
        default_executor();
        _exit(1);
      } catch (const InvalidArgument& error) {
        if (error.what() != expected) _exit(2);
      }
    }
    _exit(0);
  }
};

TEST_F(DefaultExecutorDeathTest, HasAsManyThreadsAsTheEnvironmentSays) {
  for (const int threads : {1, 3}) {
    EXPECT_EXIT(check_workers(std::to_string(threads).c_str(), threads), testing::ExitedWithCode(0),
                "");
  }
}

TEST_F(DefaultExecutorDeathTest, RejectsASettingThatIsNoThreadCount) {
  for (const char* setting : {"0", "-2", "two", "4 ", "2.5", "4097", "99999999999999999999"}) {
    EXPECT_EXIT(check_message(setting, "SACCADE_NUM_THREADS is '" + std::string(setting) +
                                           "', but must be a number from 1 to 4096"),
                testing::ExitedWithCode(0), "")
        << setting;
  }
}

#ifdef __linux__
TEST_F(DefaultExecutorDeathTest, HasOneThreadForEachCpuOfTheProcess) {
  cpu_set_t cpus;
  ASSERT_EQ(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
  // An empty setting is none.
  EXPECT_EXIT(check_workers("", CPU_COUNT(&cpus)), testing::ExitedWithCode(0), "");

  int first = 0;
  while (!CPU_ISSET(first, &cpus)) ++first;
  CPU_ZERO(&cpus);
  CPU_SET(first, &cpus);
  EXPECT_EXIT(
      {
        sched_setaffinity(0, sizeof(cpus), &cpus);
        check_workers("", 1);
      },
      testing::ExitedWithCode(0), "");
}
#endif

}  // namespace
}  // namespace saccade

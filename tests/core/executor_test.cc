#include <saccade/error.h>
#include <saccade/executor.h>

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace saccade {
namespace {

// Whether one call of run reaches every worker exactly once.
bool runs_each_worker_once(Executor& executor, int workers) {
  std::vector<std::atomic<int>> calls(workers);
  executor.run(workers, [&](int worker) { ++calls.at(worker); });
  for (const std::atomic<int>& count : calls) {
    if (count != 1) return false;
  }
  return true;
}

// Whether the bodies of one call meet: each waits for all others, but not for ever.
bool runs_at_the_same_time(Executor& executor, int workers) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  std::atomic<int> arrived = 0;
  std::atomic<bool> have_met = true;
  executor.run(workers, [&](int) {
    ++arrived;
    while (arrived < workers && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
    if (arrived < workers) have_met = false;
  });
  return have_met;
}

TEST(ThreadPoolTest, RunsEachWorkerOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.max_workers(), threads);
    for (const int workers : {0, 1, 2, 3, 7, 8, 9, 100}) {
      EXPECT_TRUE(runs_each_worker_once(pool, workers)) << workers << " on " << threads;
    }
  }
}

// Long enough for helpers to lag behind, so that they meet bodies of later calls.
TEST(ThreadPoolTest, ManyShortCallsInARow) {
  ThreadPool pool(4);
  std::int64_t sum = 0;
  for (int call = 0; call < 20000; ++call) {
    std::atomic<int> calls = 0;
    const int workers = 1 + call % 6;
    pool.run(workers, [&](int worker) { calls += worker + 1; });
    sum += calls - workers * (workers + 1) / 2;
  }
  EXPECT_EQ(sum, 0);
}

TEST(ThreadPoolTest, RunsBodiesAtTheSameTime) {
  ThreadPool pool(3);
  for (int call = 0; call < 100; ++call) ASSERT_TRUE(runs_at_the_same_time(pool, 3));
}

TEST(ThreadPoolTest, WakesSleepingThreads) {
  ThreadPool pool(3);
  for (int call = 0; call < 20; ++call) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // far beyond the spinning
    ASSERT_TRUE(runs_at_the_same_time(pool, 3));
  }
}

TEST(ThreadPoolTest, ACallerWithoutWorkSleepsUntilTheLastBodyEnds) {
  ThreadPool pool(2);
  for (int call = 0; call < 5; ++call) {
    std::atomic<bool> has_started = false;
    std::atomic<bool> has_ended = false;
    pool.run(2, [&](int worker) {
      if (worker == 0) {
        while (!has_started) std::this_thread::yield();
      } else {
        has_started = true;
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        has_ended = true;
      }
    });
    ASSERT_TRUE(has_ended);
  }
}

TEST(ThreadPoolTest, TheCallerIsWorkerZero) {
  ThreadPool pool(4);
  for (int call = 0; call < 100; ++call) {
    std::thread::id thread;
    pool.run(4, [&](int worker) {
      if (worker == 0) thread = std::this_thread::get_id();
    });
    ASSERT_EQ(thread, std::this_thread::get_id());
  }
}

TEST(ThreadPoolTest, ServesManyCallersAtOnce) {
  ThreadPool pool(4);
  std::atomic<int> failures = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 6; ++caller) {
    callers.emplace_back([&] {
      for (int call = 0; call < 500; ++call) {
        if (!runs_each_worker_once(pool, 1 + call % 9)) ++failures;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(failures, 0);
}

TEST(ThreadPoolTest, ABusyPoolRunsOnTheCaller) {
  ThreadPool pool(2);
  std::atomic<int> started = 0;
  std::atomic<bool> may_end = false;
  std::thread occupant([&] {
    pool.run(2, [&](int) {
      ++started;
      while (!may_end) std::this_thread::yield();
    });
  });
  while (started < 2) std::this_thread::yield();

  std::vector<std::thread::id> threads(5);
  pool.run(5, [&](int worker) { threads[worker] = std::this_thread::get_id(); });
  may_end = true;
  occupant.join();
  EXPECT_EQ(threads, std::vector(5, std::this_thread::get_id()));
}

TEST(ThreadPoolTest, NestedCallsRunOnTheirCaller) {
  ThreadPool outer(3);
  ThreadPool inner(3);
  std::atomic<int> elsewhere = 0;
  std::atomic<int> calls = 0;
  outer.run(6, [&](int) {
    const std::thread::id caller = std::this_thread::get_id();
    for (ThreadPool* pool : {&outer, &inner}) {
      pool->run(4, [&](int) {
        ++calls;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));  // time for others to step in
        if (std::this_thread::get_id() != caller) ++elsewhere;
      });
    }
  });
  EXPECT_EQ(calls, 6 * 2 * 4);
  EXPECT_EQ(elsewhere, 0);
}

TEST(ThreadPoolTest, AnExceptionArrivesAfterAllBodiesHaveEnded) {
  for (const int threads : {1, 4}) {
    ThreadPool pool(threads);
    for (const int thrower : {0, 1, 7}) {
      std::atomic<int> ended = 0;
      try {
        pool.run(8, [&](int worker) {
          if (worker == thrower) throw std::runtime_error("worker " + std::to_string(worker));
          std::this_thread::yield();
          ++ended;
        });
        ADD_FAILURE() << "no exception from worker " << thrower;
      } catch (const std::runtime_error& error) {
        EXPECT_EQ(error.what(), "worker " + std::to_string(thrower));
      }
      EXPECT_EQ(ended, 7);
      EXPECT_TRUE(runs_each_worker_once(pool, 8)) << "after an exception";
    }
  }
}

TEST(ThreadPoolTest, OneOfManyExceptionsArrives) {
  ThreadPool pool(4);
  for (int call = 0; call < 50; ++call) {
    EXPECT_THROW(pool.run(8, [](int worker) { throw worker; }), int);
  }
}

TEST(ThreadPoolTest, RejectsThreadCountsWithoutAMeaning) {
  EXPECT_THROW(ThreadPool(0), InvalidArgument);
  EXPECT_THROW(ThreadPool(-3), InvalidArgument);
  EXPECT_THROW(ThreadPool(1 << 30), InvalidArgument);
}

TEST(ThreadPoolTest, DestructionEndsSleepingThreads) {
  ThreadPool pool(4);
  EXPECT_TRUE(runs_each_worker_once(pool, 4));
  std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

TEST(ThreadPoolTest, AnUnusedPoolCanBeDestroyed) {
  ThreadPool pool(4);
  EXPECT_EQ(pool.max_workers(), 4);
}

// Exit status of a child that runs `check`: 0 if it returned true. A child that hangs is ended by
// its alarm and reports a negative status.
template <typename Check>
int status_of_child(Check check) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(check() ? 0 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(ThreadPoolForkTest, AChildStartsItsOwnThreads) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer does not support threads that are started after fork";
#endif
  ThreadPool pool(4);
  ASSERT_TRUE(runs_each_worker_once(pool, 4));
  const auto works = [&] {
    return runs_at_the_same_time(pool, 4) && runs_each_worker_once(pool, 9);
  };
  EXPECT_EQ(status_of_child(works), 0);
  EXPECT_EQ(status_of_child([&] { return works() && status_of_child(works) == 0; }), 0);
  EXPECT_TRUE(works()) << "the parent";
}

TEST(ThreadPoolForkTest, AChildMayBeForkedWhileThePoolIsBusy) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer does not support threads that are started after fork";
#endif
  ThreadPool pool(3);
  std::atomic<int> started = 0;
  std::atomic<bool> may_end = false;
  std::thread occupant([&] {
    pool.run(3, [&](int) {
      ++started;
      while (!may_end) std::this_thread::yield();
    });
  });
  while (started < 3) std::this_thread::yield();
  EXPECT_EQ(status_of_child([&] { return runs_each_worker_once(pool, 5); }), 0);
  may_end = true;
  occupant.join();
}

TEST(ThreadPoolForkTest, AChildMayDestroyThePool) {
  auto pool = std::make_unique<ThreadPool>(3);
  ASSERT_TRUE(runs_each_worker_once(*pool, 3));
  EXPECT_EQ(status_of_child([&] {
              pool.reset();  // would wait for ever for threads that exist in the parent only
              return true;
            }),
            0);
}

}  // namespace
}  // namespace saccade

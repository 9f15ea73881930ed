#include <saccade/error.h>
#include <saccade/executor.h>

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif

namespace saccade {
namespace {

constexpr int kMaxThreads = 4096;

// About what waking a sleeping thread costs (28 us measured on a virtual machine, against 1 us for
// a spinning one): so a wait costs at most twice the best that could have been chosen.
constexpr std::chrono::microseconds kSpinTime{30};

// Whether this thread is running a body; a nested call must not wait for the pool that it is in.
thread_local bool inside_body = false;

// Yields instead of pausing: the thread waited for may need this CPU.
template <typename Condition>
bool spin_until(Condition condition) {
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    if (condition()) return true;
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

// The bodies of one call of run, and the first exception that one of them threw.
class Job {
 public:
  explicit Job(const std::function<void(int)>& body) : body_(body) {}

  void call(int worker) noexcept {
    const bool is_nested = std::exchange(inside_body, true);
    try {
      body_(worker);
    } catch (...) {
      if (!has_failed_.exchange(true)) error_ = std::current_exception();
    }
    inside_body = is_nested;
  }

  // To be called after all bodies have ended.
  void rethrow_error() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  const std::function<void(int)>& body_;
  std::atomic<bool> has_failed_ = false;
  std::exception_ptr error_;
};

// Threads that help the caller of one job at a time. Bodies are claimed by counting `unclaimed_`
// down, so a helper that wakes late finds either nothing to do or a body of a later job; nobody
// waits for helpers that have no body. All atomics are sequentially consistent: next to a body
// their order costs nothing.
class Crew {
 public:
  explicit Crew(int helpers) : Crew() {  // once delegated, a failing start runs the destructor
    threads_.reserve(helpers);
    for (int i = 0; i < helpers; ++i) threads_.emplace_back([this] { help(); });
  }
  ~Crew() {
    unclaimed_ = kStop;
    unclaimed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  pid_t process() const { return process_; }

  // Runs the job, or returns false at once if the crew is busy with another.
  bool try_run(int workers, Job& job) {
    if (is_busy_.exchange(true)) return false;
    job_ = &job;
    unfinished_ = workers - 1;
    unclaimed_ = workers - 1;
    unclaimed_.notify_all();

    job.call(0);
    while (const int worker = claim()) work(worker);
    await_helpers();
    is_busy_ = false;
    return true;
  }

 private:
  static constexpr int kStop = -1;

  Crew() : process_(getpid()) {}

  // A worker that nobody else will run, 0 if there is none, or kStop.
  int claim() {
    int worker = unclaimed_;
    while (worker > 0 && !unclaimed_.compare_exchange_weak(worker, worker - 1)) {
    }
    return worker;
  }

  void work(int worker) {
    job_->call(worker);
    if (unfinished_.fetch_sub(1) == 1) unfinished_.notify_one();
  }

  void help() {
    for (;;) {
      const int worker = claim();
      if (worker == kStop) return;
      if (worker > 0) {
        work(worker);
      } else if (!spin_until([this] { return unclaimed_ != 0; })) {
        unclaimed_.wait(0);
      }
    }
  }

  void await_helpers() {
    if (spin_until([this] { return unfinished_ == 0; })) return;
    while (const int unfinished = unfinished_) unfinished_.wait(unfinished);
  }

  const pid_t process_;
  std::atomic<bool> is_busy_ = false;
  Job* job_ = nullptr;
  std::atomic<int> unclaimed_ = 0;   // the highest worker that is not claimed; worker 0 never is
  std::atomic<int> unfinished_ = 0;  // bodies that have not ended, worker 0 left out
  std::vector<std::thread> threads_;
};

int available_cpus() {
#ifdef __linux__
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof(cpus), &cpus) == 0) return CPU_COUNT(&cpus);
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int default_threads() {
  const char* text = std::getenv("SACCADE_NUM_THREADS");
  if (text == nullptr || *text == '\0') return std::min(available_cpus(), kMaxThreads);
  const char* end = text + std::strlen(text);
  int threads = 0;
  const auto [parsed_end, error] = std::from_chars(text, end, threads);
  if (error == std::errc{} && parsed_end == end && threads >= 1 && threads <= kMaxThreads) {
    return threads;
  }
  throw InvalidArgument(fmt::format(
      "SACCADE_NUM_THREADS is '{}', but must be a number from 1 to {}", text, kMaxThreads));
}

int checked_threads(int threads) {
  if (threads >= 1 && threads <= kMaxThreads) return threads;
  throw InvalidArgument(fmt::format(
      "a thread pool of {} threads was asked for, but it must have 1 to {}", threads, kMaxThreads));
}

}  // namespace

// The crew of the process that asks, started by the first call that needs it. fork copies a crew
// without its threads and with its locks in whatever state they were, so the child starts another
// and leaves the copy alone.
class ThreadPool::Team {
 public:
  explicit Team(int helpers) : helpers_(helpers) {}
  ~Team() {
    if (Crew* crew = crew_; crew != nullptr && crew->process() == getpid()) delete crew;
  }

  Crew& crew() {
    Crew* current = crew_;
    if (current != nullptr && current->process() == getpid()) return *current;
    auto started = std::make_unique<Crew>(helpers_);
    // Of several threads that get here at once, one wins.
    return crew_.compare_exchange_strong(current, started.get()) ? *started.release() : *current;
  }

 private:
  const int helpers_;
  std::atomic<Crew*> crew_ = nullptr;
};

ThreadPool::ThreadPool(int threads)
    : threads_(checked_threads(threads)), team_(std::make_unique<Team>(threads - 1)) {}

ThreadPool::~ThreadPool() = default;

int ThreadPool::max_workers() const {
  return threads_;
}

void ThreadPool::run(int workers, const std::function<void(int worker)>& body) {
  Job job(body);
  const bool may_share = workers > 1 && threads_ > 1 && !inside_body;
  if (!may_share || !team_->crew().try_run(workers, job)) {
    for (int worker = 0; worker < workers; ++worker) job.call(worker);
  }
  job.rethrow_error();
}

Executor& default_executor() {
  // Never destroyed: other threads may still be in it while the process exits.
  static ThreadPool* const pool = new ThreadPool(default_threads());
  return *pool;
}

}  // namespace saccade

#pragma once

#include <functional>
#include <memory>

namespace saccade {

// Where saccade's CPU work runs. A caller that owns threads derives from this; everyone else gets
// default_executor().
class Executor {
 public:
  virtual ~Executor() = default;

  // How many workers may usefully run at once, at least 1.
  virtual int max_workers() const = 0;

  // Calls body(worker) once for each worker in [0, workers) and returns when all calls have
  // returned. Calls may run at the same time or one after the other, in any order and on any
  // thread. An exception of a body is rethrown here after all bodies have ended.
  virtual void run(int workers, const std::function<void(int worker)>& body) = 0;
};

// A persistent pool. The calling thread works too, so `threads` = 1 starts none. Safe to call from
// many threads at once (a caller that finds the pool busy runs its bodies itself, one by one), from
// inside a body (likewise), and in the child after fork (threads are started anew). Idle threads
// spin for a few microseconds and then sleep. Results of saccade never depend on `threads`.
class ThreadPool final : public Executor {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int max_workers() const override;
  void run(int workers, const std::function<void(int worker)>& body) override;

 private:
  class Team;
  const int threads_;
  std::unique_ptr<Team> team_;
};

// The process-wide pool: one thread for each CPU that this process may run on, or as many as
// SACCADE_NUM_THREADS says (read once, 1 to 4096). Throws InvalidArgument if that is no such
// number. Never destroyed.
Executor& default_executor();

}  // namespace saccade

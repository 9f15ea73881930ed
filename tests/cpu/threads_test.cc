#include "support/attention.h"
#include "support/comparison.h"
#include "support/partials.h"

#include <saccade/executor.h>
#include <saccade/update_mask.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

namespace saccade::test {
namespace {

// Problems of many units of work: heads in several groups, rows of unequal length.
std::vector<Problem> many_units() {
  Random random(1);
  std::vector<Problem> problems;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t k_heads : {1, 40}) {
      const ProblemShape shape{.batch = 2,
                               .q_heads = 2 * k_heads,
                               .k_heads = k_heads,
                               .q_len = k_heads == 1 ? 600 : 90,
                               .k_len = k_heads == 1 ? 700 : 140,
                               .head_dim = 32,
                               .block_q = 64,
                               .block_k = 64};
      Problem& problem = problems.emplace_back(shape, dtype, random, Layout::bshd);
      problem.tiles = random_mask(shape.grid(), 0.5, random);
      problem.wants_scores = true;
      problem.threshold = -2.0;
      spread_scores(problem, random);
    }
  }
  // Few rows, which are cut into pieces.
  for (const bool has_ref : {false, true}) {
    const ProblemShape shape{.q_heads = 2,
                             .k_heads = 1,
                             .q_len = 70,
                             .k_len = 5000,
                             .head_dim = 32,
                             .block_q = 64,
                             .block_k = 64};
    Problem& problem = problems.emplace_back(shape, DType::f32, random);
    problem.tiles = random_mask(shape.grid(), 0.4, random);
    problem.wants_scores = true;
    problem.threshold = -2.0;
    spread_scores(problem, random);
    if (has_ref) problem.ref = random_ref(problem, random);
  }
  return problems;
}

// Runs bodies one after the other, the last worker first, and keeps count.
class BackwardsExecutor final : public Executor {
 public:
  explicit BackwardsExecutor(int max_workers) : max_workers_(max_workers) {}

  int max_workers() const override { return max_workers_; }
  void run(int workers, const std::function<void(int worker)>& body) override {
    ++calls;
    most_workers = std::max(most_workers, workers);
    for (int worker = workers - 1; worker >= 0; --worker) body(worker);
  }

  int calls = 0;
  int most_workers = 0;

 private:
  const int max_workers_;
};

TEST(CpuThreadsTest, ResultsAreTheSameBitsForAnyNumberOfThreads) {
  ThreadPool one(1);
  std::int64_t marked = 0;
  for (const Problem& problem : many_units()) {
    SCOPED_TRACE(problem.describe());
    const Context alone{.executor = &one, .backend = Backend::cpu};
    const ForwardResult forward = run_forward(alone, problem);
    const Gradients gradients = run_backward(alone, problem, forward);
    marked += forward.marks->count();
    for (const int threads : {2, 3, 5}) {
      ThreadPool pool(threads);
      const Context context{.executor = &pool, .backend = Backend::cpu};
      expect_same(run_forward(context, problem), forward);
      expect_same(run_backward(context, problem, forward), gradients);
    }
    BackwardsExecutor backwards(4);
    const Context context{.executor = &backwards, .backend = Backend::cpu};
    expect_same(run_forward(context, problem), forward);
    expect_same(run_backward(context, problem, forward), gradients);
  }
  EXPECT_GT(marked, 0);
}

TEST(CpuThreadsTest, MergedPartialsAreTheSameBitsForAnyNumberOfThreads) {
  Random random(2);
  const std::vector<std::int64_t> shape{2, 3, 200, 20};
  OwnedPartials partials;
  for (int i = 0; i < 3; ++i) {
    partials.push_back(random_partial(shape, DType::f32, Layout::bhsd, random));
  }
  ThreadPool one(1);
  const Context alone{.executor = &one, .backend = Backend::cpu};
  const OwnedPartial merged = run_merge(alone, partials);
  const OwnedPartials gradients = run_merge_backward(alone, partials, merged, partials[0]);
  for (const int threads : {2, 3, 5}) {
    ThreadPool pool(threads);
    const Context context{.executor = &pool, .backend = Backend::cpu};
    const OwnedPartial again = run_merge(context, partials);
    EXPECT_TRUE(is_same(again.out, merged.out));
    EXPECT_TRUE(is_same(again.lse, merged.lse));
    const OwnedPartials gradients_again =
        run_merge_backward(context, partials, merged, partials[0]);
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      EXPECT_TRUE(is_same(gradients_again[i].out, gradients[i].out));
      EXPECT_TRUE(is_same(gradients_again[i].lse, gradients[i].lse));
    }
  }
}

TEST(CpuThreadsTest, ManyThreadsMayCallAtOnce) {
  const std::vector<Problem> problems = many_units();
  const Context context{.backend = Backend::cpu};
  std::vector<ForwardResult> forward;
  std::vector<Gradients> gradients;
  for (const Problem& problem : problems) {
    forward.push_back(run_forward(context, problem));
    gradients.push_back(run_backward(context, problem, forward.back()));
  }
  std::vector<std::thread> callers;
  for (std::size_t i = 0; i < problems.size(); ++i) {
    callers.emplace_back([&, i] {
      expect_same(run_forward(context, problems[i]), forward[i]);
      expect_same(run_backward(context, problems[i], forward[i]), gradients[i]);
    });
  }
  for (std::thread& caller : callers) caller.join();
}

// Makes a call of its own before each that it is asked to run, on the same thread.
class NestingExecutor final : public Executor {
 public:
  explicit NestingExecutor(std::function<void()> call) : call_(std::move(call)) {}

  int max_workers() const override { return 1; }
  void run(int workers, const std::function<void(int worker)>& body) override {
    if (!std::exchange(is_nested_, true)) {
      call_();
      is_nested_ = false;
    }
    for (int worker = 0; worker < workers; ++worker) body(worker);
  }

 private:
  std::function<void()> call_;
  bool is_nested_ = false;
};

TEST(CpuThreadsTest, CallsMayNest) {
  const Problem problem = many_units()[2];
  ThreadPool one(1);
  const Context alone{.executor = &one, .backend = Backend::cpu};
  const ForwardResult forward = run_forward(alone, problem);
  const Gradients gradients = run_backward(alone, problem, forward);
  NestingExecutor nesting([&] {
    expect_same(run_forward(alone, problem), forward);
    expect_same(run_backward(alone, problem, forward), gradients);
  });
  const Context context{.executor = &nesting, .backend = Backend::cpu};
  expect_same(run_forward(context, problem), forward);
  expect_same(run_backward(context, problem, forward), gradients);
}

// Every primitive runs on the caller's executor, with all of its workers and no more.
TEST(CpuThreadsTest, TheCallersExecutorDoesTheWork) {
  const Problem problem = many_units().front();
  for (const int max_workers : {1, 3}) {
    BackwardsExecutor executor(max_workers);
    const Context context{.executor = &executor, .backend = Backend::cpu};
    const auto expect_used = [&](const char* primitive) {
      EXPECT_GT(executor.calls, 0) << primitive;
      EXPECT_EQ(executor.most_workers, max_workers) << primitive;
      executor.calls = executor.most_workers = 0;
    };
    const ForwardResult forward = run_forward(context, problem);
    expect_used("attention_forward");
    run_backward(context, problem, forward);
    expect_used("attention_backward");

    Random random(3);
    const OwnedPartial partial = random_partial({2, 2, 600, 32}, DType::f32, Layout::bhsd, random);
    const OwnedPartial merged = run_merge(context, {partial, partial});
    expect_used("merge_partials");
    run_merge_backward(context, {partial}, merged, merged);
    expect_used("merge_partials_backward");

    const TileMask mask = TileMask::full({1, 8, 128 * 128, 64, 128, 64});
    TileMask next(mask.grid());
    update_mask(context, {.mask = mask.view(), .computed = mask.view(), .marks = mask.view()}, {},
                {.next = next.view()});
    expect_used("update_mask");
  }
}

}  // namespace
}  // namespace saccade::test

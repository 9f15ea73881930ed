#include "support/attention.h"
#include "support/comparison.h"
#include "support/expect_error.h"
#include "support/partials.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace saccade::test {
namespace {

const Context kDefault{};
const Context kReference{.backend = Backend::reference};
const Context kCpu{.backend = Backend::cpu};

// Sets an environment variable, and puts back what was there.
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const char* value) : name_(name) {
    if (const char* before = std::getenv(name)) before_ = before;
    setenv(name, value, 1);
  }
  ~ScopedEnvironment() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

Problem ordinary_problem(DType dtype = DType::f32) {
  Random random(1);
  return Problem({.q_heads = 2, .k_heads = 1, .q_len = 130, .k_len = 200, .head_dim = 32}, dtype,
                 random);
}

TEST(DispatchTest, TheEnvironmentChoosesTheBackend) {
  const Problem problem = ordinary_problem();
  const ForwardResult reference = run_forward(kReference, problem);
  const ForwardResult cpu = run_forward(kCpu, problem);
  ASSERT_FALSE(is_same(cpu.out, reference.out)) << "f32 rounds where double does not";
  {
    const ScopedEnvironment forced("SACCADE_BACKEND", "reference");
    EXPECT_EQ(resolve_backend(kDefault), Backend::reference);
    EXPECT_EQ(resolve_backend(kCpu), Backend::cpu);
    expect_same(run_forward(kDefault, problem), reference);
    expect_same(run_forward(kCpu, problem), cpu);
  }
  for (const char* name : {"cpu", ""}) {
    const ScopedEnvironment forced("SACCADE_BACKEND", name);
    EXPECT_EQ(resolve_backend(kDefault), Backend::cpu);
    EXPECT_EQ(resolve_backend(kReference), Backend::reference);
    expect_same(run_forward(kDefault, problem), cpu);
  }
}

TEST(DispatchTest, RejectsAnUnknownBackend) {
  const Problem problem = ordinary_problem();
  const ScopedEnvironment forced("SACCADE_BACKEND", "gpu");
  const MessageParts message{"SACCADE_BACKEND is 'gpu'", "reference, cpu"};
  expect_error<InvalidArgument>(message, [] { resolve_backend(kDefault); });
  const ForwardResult result(problem);
  expect_error<InvalidArgument>(
      message, [&] { attention_forward(kDefault, problem.inputs(), {}, result.outputs()); });
  EXPECT_TRUE(result.out.is_unwritten());
  EXPECT_NO_THROW(run_forward(kCpu, problem)) << "the context decides first";

  expect_error<InvalidArgument>(
      {"context.backend"}, [&] { run_forward({.backend = static_cast<Backend>(7)}, problem); });
}

TEST(DispatchTest, BackendsHaveNames) {
  EXPECT_EQ(name_of(Backend::reference), "reference");
  EXPECT_EQ(name_of(Backend::cpu), "cpu");
}

// The instruction set is chosen once, so this needs a process of its own.
TEST(DispatchDeathTest, RejectsAnUnknownInstructionSet) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  const auto message_and_exit = [] {
    setenv("SACCADE_CPU_TARGET", "mmx", 1);
    const Problem problem = ordinary_problem();
    run_forward(kReference, problem);  // does not care
    try {
      run_forward(kCpu, problem);
    } catch (const InvalidArgument& error) {
      std::fputs(error.what(), stderr);
      std::exit(3);
    }
    std::exit(0);
  };
  EXPECT_EXIT(message_and_exit(), testing::ExitedWithCode(3),
              "SACCADE_CPU_TARGET is 'mmx', but this build and machine have: ");
}

TEST(DispatchTest, F64IsForTheReferenceOnly) {
  const Problem problem = ordinary_problem(DType::f64);
  const ForwardResult forward = run_forward(kReference, problem);
  const MessageParts message{"f16, bf16 and f32", "not f64", "SACCADE_BACKEND=reference"};
  const ForwardResult result(problem);
  expect_error<Unsupported>(
      message, [&] { attention_forward(kCpu, problem.inputs(), {}, result.outputs()); });
  EXPECT_TRUE(result.out.is_unwritten());
  const Gradients gradients(problem);
  expect_error<Unsupported>(message, [&] {
    attention_backward(kCpu, backward_inputs(problem, forward), {}, gradients.outputs());
  });
  EXPECT_TRUE(gradients.dq.is_unwritten());

  Random random(2);
  const OwnedPartial partial = random_partial({1, 1, 3, 4}, DType::f64, Layout::bhsd, random);
  const OwnedPartial merged = run_merge(kReference, {partial});
  expect_error<Unsupported>(message, [&] { run_merge(kCpu, {partial}); });
  expect_error<Unsupported>(message, [&] { run_merge_backward(kCpu, {partial}, merged, merged); });
}

TEST(DispatchTest, NamesTheNearestHeadDimensionOfTheCpuBackend) {
  Random random(3);
  for (const auto& [head_dim, nearest] : std::vector<std::pair<std::int64_t, const char*>>{
           {1, "16"}, {20, "16"}, {30, "32"}, {250, "256"}, {264, "256"}, {1000, "256"}}) {
    const Problem problem({.q_len = 3, .k_len = 4, .head_dim = head_dim}, DType::f32, random);
    const ForwardResult forward = run_forward(kReference, problem);
    const MessageParts message{"multiples of 16 up to 256", "not " + std::to_string(head_dim),
                               std::string("nearest legal choice is ") + nearest};
    const ForwardResult result(problem);
    expect_error<Unsupported>(
        message, [&] { attention_forward(kCpu, problem.inputs(), {}, result.outputs()); });
    EXPECT_TRUE(result.out.is_unwritten());
    expect_error<Unsupported>(message, [&] { visit_plan(kCpu, problem.inputs(), {}); });
    expect_error<Unsupported>(message, [&] { run_backward(kCpu, problem, forward); });
  }
}

TEST(DispatchTest, RejectsAWorkspaceThatIsTooSmallOrMisaligned) {
  const Problem problem = ordinary_problem(DType::bf16);
  const ForwardResult forward = run_forward(kCpu, problem);
  const std::size_t forward_bytes = attention_forward_workspace_size(kCpu, problem.inputs(), {});
  const std::size_t backward_bytes =
      attention_backward_workspace_size(kCpu, backward_inputs(problem, forward), {});
  ASSERT_GT(forward_bytes, 64u);
  ASSERT_GT(backward_bytes, 64u);

  struct alignas(64) Block {
    std::byte bytes[64];
  };
  std::vector<Block> blocks(std::max(forward_bytes, backward_bytes) / sizeof(Block) + 2);
  std::byte* memory = blocks.front().bytes;
  const ForwardResult result(problem);
  const Gradients gradients(problem);
  const auto run = [&](std::span<std::byte> workspace, bool is_backward) {
    const Context context{.workspace = workspace, .backend = Backend::cpu};
    if (is_backward) {
      attention_backward(context, backward_inputs(problem, forward), {}, gradients.outputs());
    } else {
      attention_forward(context, problem.inputs(), {}, result.outputs());
    }
  };
  for (const bool is_backward : {false, true}) {
    const std::size_t bytes = is_backward ? backward_bytes : forward_bytes;
    expect_error<InvalidArgument>(
        {"workspace has " + std::to_string(bytes - 1), "at least " + std::to_string(bytes)}, [&] {
          run({memory, bytes - 1}, is_backward);
        });
    expect_error<InvalidArgument>({"aligned to 64 bytes"}, [&] {
      run({memory + 32, bytes}, is_backward);
    });
  }
  EXPECT_TRUE(result.out.is_unwritten());
  EXPECT_TRUE(gradients.dk.is_unwritten());
  for (const bool is_backward : {false, true}) {
    const std::size_t bytes = is_backward ? backward_bytes : forward_bytes;
    EXPECT_NO_THROW(run({memory, bytes}, is_backward));
  }
}

TEST(DispatchTest, PlansTheVisitOfTheBackend) {
  const Problem problem = ordinary_problem();
  for (const Context& context : {kReference, kCpu}) {
    for (const VisitOrder order : {VisitOrder::linear, VisitOrder::reversed, VisitOrder::radial}) {
      const VisitPlan plan = visit_plan(context, problem.inputs(), {.order = order});
      EXPECT_EQ(plan.order, order);
      EXPECT_EQ(plan.group_tiles, 1);
      EXPECT_GE(plan.panel_rows, 1);
      EXPECT_LE(plan.panel_rows, problem.shape.block_q);
    }
  }
}

// The reference replays the panels of any backend; the cpu backend has its own and no others.
TEST(DispatchTest, PanelsAreThoseOfTheBackendOrOfAnother) {
  const Problem problem = ordinary_problem();
  AttentionForwardOptions options{.threshold = -2.0, .skips_values = true};
  const auto rows = [&](const Context& context) {
    return visit_plan(context, problem.inputs(), options).panel_rows;
  };
  EXPECT_EQ(rows(kReference), problem.shape.block_q);
  options.panel_rows = rows(kCpu);
  EXPECT_EQ(rows(kReference), options.panel_rows);
  EXPECT_EQ(rows(kCpu), options.panel_rows);
  options.panel_rows = 7;
  EXPECT_EQ(rows(kReference), 7);
  expect_error<Unsupported>({"panels of", "not 7", "leave panel_rows at 0"}, [&] { rows(kCpu); });
}

}  // namespace
}  // namespace saccade::test

#include "support/attention.h"
#include "support/comparison.h"

#include <saccade/executor.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>

namespace saccade::test {
namespace {

// A workspace of bytes 0xFF, NaN as floats, with guards behind it.
class GuardedWorkspace {
 public:
  explicit GuardedWorkspace(std::size_t bytes)
      : blocks_((bytes + sizeof(Block) - 1) / sizeof(Block) + 1), bytes_(bytes) {
    std::fill_n(memory(), blocks_.size() * sizeof(Block), kFill);
  }

  std::span<std::byte> span() { return {memory(), bytes_}; }
  bool guards_are_intact() {
    return std::all_of(memory() + bytes_, memory() + blocks_.size() * sizeof(Block),
                       [](std::byte b) { return b == kFill; });
  }

 private:
  struct alignas(64) Block {
    std::byte bytes[1024];
  };
  static constexpr std::byte kFill{0xFF};

  std::byte* memory() { return reinterpret_cast<std::byte*>(blocks_.data()); }

  std::vector<Block> blocks_;
  std::size_t bytes_;
};

TEST(CpuWorkspaceTest, TheSizeThatIsAskedForSufficesAndItsContentsMeanNothing) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    const Context plain{.executor = &pool, .backend = Backend::cpu};
    for (std::uint64_t seed = 1000; seed < 1060; ++seed) {
      const Problem problem = hostile_problem(seed);
      SCOPED_TRACE(problem.describe());
      const ForwardResult forward = run_forward(plain, problem);
      GuardedWorkspace forward_workspace(
          attention_forward_workspace_size(plain, problem.inputs(), problem.forward_options()));
      Context context = plain;
      context.workspace = forward_workspace.span();
      expect_same(run_forward(context, problem), forward);
      EXPECT_TRUE(forward_workspace.guards_are_intact());

      GuardedWorkspace backward_workspace(attention_backward_workspace_size(
          plain, backward_inputs(problem, forward), problem.backward_options()));
      context.workspace = backward_workspace.span();
      expect_same(run_backward(context, problem, forward), run_backward(plain, problem, forward));
      EXPECT_TRUE(backward_workspace.guards_are_intact());
    }
  }
}

// Packed f32 keys need no copy; 16-bit ones do.
TEST(CpuWorkspaceTest, PackingTakesWorkspace) {
  Random random(1);
  const ProblemShape shape{.k_heads = 1, .q_len = 10, .k_len = 1000, .head_dim = 64};
  const auto bytes = [&](DType dtype) {
    const Problem problem(shape, dtype, random);
    return attention_forward_workspace_size({.backend = Backend::cpu}, problem.inputs(), {});
  };
  EXPECT_GE(bytes(DType::bf16), bytes(DType::f32) + 2 * 1000 * 64 * sizeof(float));
}

}  // namespace
}  // namespace saccade::test

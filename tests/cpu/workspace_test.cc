#include "support/attention.h"
#include "support/comparison.h"

#include <saccade/executor.h>
#include <saccade/linear_attention.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

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
  EXPECT_GE(bytes(DType::f16), bytes(DType::f32) + 2 * 1000 * 64 * sizeof(float));
}

// Bytes of workspace of every kernel, over a problem of `heads` heads of equal length. Sizes come
// from shapes: there is no data.
std::vector<std::size_t> workspace_sizes(std::int64_t heads, std::int64_t length, bool is_masked) {
  alignas(64) static std::byte nothing[64];
  const auto view = [&](DType dtype, std::initializer_list<std::int64_t> shape) {
    return TensorView::contiguous(nothing, dtype, shape);
  };
  const TensorView rows = view(DType::bf16, {1, heads, length, 64});
  const TensorView lse = view(DType::f32, {1, heads, length});
  const TileMask full = TileMask::full(
      {.batch = 1, .heads = heads, .q_len = length, .k_len = length, .block_q = 64, .block_k = 64});
  const TileMaskView tiles = is_masked ? full.view() : TileMaskView{};
  const LinearInputs linear = {.q = rows, .k = rows, .v = rows, .tiles = tiles};
  ThreadPool pool(2);
  const Context context{.executor = &pool, .backend = Backend::cpu};
  return {
      attention_forward_workspace_size(context, {.q = rows, .k = rows, .v = rows, .tiles = tiles},
                                       {}),
      attention_backward_workspace_size(
          context,
          {.q = rows, .k = rows, .v = rows, .tiles = tiles, .out = rows, .lse = lse, .dout = rows},
          {}),
      linear_forward_workspace_size(context, linear, {}),
      linear_backward_workspace_size(context, {.forward = linear, .out = rows, .dout = rows}, {})};
}

// No kernel keeps anything that grows with q_len x k_len, or with the number of heads without end.
TEST(CpuWorkspaceTest, GrowsWithTheLengthAndNoFaster) {
  for (const bool is_masked : {false, true}) {
    const std::vector<std::size_t> once = workspace_sizes(1, 8192, is_masked);
    const std::vector<std::size_t> twice = workspace_sizes(1, 16384, is_masked);
    for (std::size_t kernel = 0; kernel < once.size(); ++kernel) {
      SCOPED_TRACE(testing::Message() << "kernel " << kernel << ", mask " << is_masked);
      EXPECT_LE(twice[kernel], 2 * once[kernel] + 4096);
    }
  }
}

TEST(CpuWorkspaceTest, IsBoundedForAnyNumberOfHeads) {
  for (const bool is_masked : {false, true}) {
    for (const std::size_t bytes : workspace_sizes(4096, 4096, is_masked)) {
      EXPECT_LE(bytes, std::size_t{256} << 20);
    }
  }
}

}  // namespace
}  // namespace saccade::test

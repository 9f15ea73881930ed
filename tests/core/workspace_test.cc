#include "core/workspace.h"

#include <saccade/error.h>

#include <gtest/gtest.h>

#include <cstdint>
#include <span>
#include <thread>

namespace saccade {
namespace {

bool is_aligned(std::span<const std::byte> memory) {
  return reinterpret_cast<std::uintptr_t>(memory.data()) % Workspace::kAlignment == 0;
}

TEST(WorkspaceTest, UsesTheCallersMemory) {
  alignas(Workspace::kAlignment) std::byte memory[256];
  const Workspace workspace(memory, 100);
  EXPECT_EQ(workspace.span().data(), memory);
  EXPECT_GE(workspace.span().size(), 100u);
}

TEST(WorkspaceTest, RejectsMemoryThatIsTooSmallOrMisaligned) {
  alignas(Workspace::kAlignment) std::byte memory[256];
  EXPECT_THROW(Workspace(std::span(memory, 99), 100), InvalidArgument);
  EXPECT_THROW(Workspace(std::span(memory + 32, 128), 100), InvalidArgument);
}

TEST(WorkspaceTest, AThreadKeepsItsMemoryForTheNextCall) {
  const std::byte* first = Workspace({}, 5000).span().data();
  const Workspace again({}, 4000);
  EXPECT_EQ(again.span().data(), first);
  EXPECT_EQ(again.span().size(), 4000u);
  EXPECT_TRUE(is_aligned(again.span()));
  std::thread([&] { EXPECT_NE(Workspace({}, 4000).span().data(), first); }).join();
}

TEST(WorkspaceTest, GrowsWithTheLargestCall) {
  for (const std::size_t bytes : {1u, 64u, 100000u, 1000000u}) {
    const Workspace workspace({}, bytes);
    EXPECT_EQ(workspace.span().size(), bytes);
    EXPECT_TRUE(is_aligned(workspace.span()));
    workspace.span().back() = std::byte{1};
  }
}

TEST(WorkspaceTest, CallsWithinACallGetMemoryOfTheirOwn) {
  const Workspace outer({}, 1000);
  const std::byte* inner_data = nullptr;
  {
    const Workspace inner({}, 1000);
    inner_data = inner.span().data();
    EXPECT_NE(inner_data, outer.span().data());
    EXPECT_TRUE(is_aligned(inner.span()));
  }
  // The outer one is still in use after the inner one has ended.
  EXPECT_NE(Workspace({}, 1000).span().data(), outer.span().data());
}

TEST(WorkspaceTest, NothingIsNeededForNothing) {
  EXPECT_TRUE(Workspace({}, 0).span().empty());
}

// Memory that is never touched costs nothing.
TEST(WorkspaceTest, LargeCallsAreNotKept) {
  const std::byte* kept = Workspace({}, 1000).span().data();
  {
    const Workspace large({}, Workspace::kRetainedBytes + 1);
    EXPECT_EQ(large.span().size(), Workspace::kRetainedBytes + 1);
    EXPECT_NE(large.span().data(), kept);
  }
  EXPECT_EQ(Workspace({}, 1000).span().data(), kept);
}

}  // namespace
}  // namespace saccade

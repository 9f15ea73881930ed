#include "core/workspace.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace saccade {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;

// Large blocks lie on huge pages where the system has them: a backward call walks through tens of
// megabytes.
std::byte* allocate(std::size_t bytes) {
  const bool is_large = bytes >= kHugePage;
  const std::size_t alignment = is_large ? kHugePage : Workspace::kAlignment;
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
#ifdef __linux__
  if (is_large) madvise(memory, rounded, MADV_HUGEPAGE);  // a wish: without it all works as well
#endif
  return static_cast<std::byte*>(memory);
}

void release(std::byte* memory) {
  std::free(memory);
}

// What a thread keeps from call to call. `in_use` covers an executor that runs another call on the
// thread that waits for this one.
struct Retained {
  std::unique_ptr<std::byte, decltype(&release)> memory{nullptr, &release};
  std::size_t bytes = 0;
  bool in_use = false;
};

thread_local Retained retained;

}  // namespace

Workspace::Workspace(std::span<std::byte> given, std::size_t bytes)
    : span_(given), source_(Source::caller) {
  if (!given.empty()) {
    if (given.size() < bytes) {
      throw InvalidArgument(fmt::format("workspace has {} bytes, but this call needs at least {}",
                                        given.size(), bytes));
    }
    if (reinterpret_cast<std::uintptr_t>(given.data()) % kAlignment != 0) {
      throw InvalidArgument(fmt::format("workspace must be aligned to {} bytes", kAlignment));
    }
    return;
  }
  if (bytes == 0) return;
  if (bytes > kRetainedBytes || retained.in_use) {
    source_ = Source::fresh;
    span_ = {allocate(bytes), bytes};
    return;
  }
  if (retained.bytes < bytes) {
    retained.memory.reset();
    retained.bytes = 0;
    retained.memory.reset(allocate(bytes));
    retained.bytes = bytes;
  }
  retained.in_use = true;
  source_ = Source::retained;
  span_ = {retained.memory.get(), bytes};
}

Workspace::~Workspace() {
  if (source_ == Source::fresh) release(span_.data());
  if (source_ == Source::retained) retained.in_use = false;
}

}  // namespace saccade

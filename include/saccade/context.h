#pragma once

#include <saccade/executor.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

namespace saccade {

enum class Backend { reference, cpu };

std::string_view name_of(Backend backend);

// Where and with what a call runs. Cheap to copy; everything in it is borrowed.
struct Context {
  // Threads for host tensors; null = default_executor().
  Executor* executor = nullptr;

  // Scratch memory of the call, aligned to 64 bytes or more and at least as large as the call's
  // *_workspace_size. Its contents mean nothing before and after the call; one workspace must not
  // serve two calls at the same time. Empty = memory that saccade keeps for the calling thread, as
  // large as its largest call so far; calls that need more than 256 MiB allocate and free it.
  std::span<std::byte> workspace{};

  // The backend for host tensors. Absent = what the environment variable SACCADE_BACKEND says
  // (reference | cpu), else cpu.
  std::optional<Backend> backend{};
};

// The backend that a call with this context uses. Throws InvalidArgument if SACCADE_BACKEND names
// none.
Backend resolve_backend(const Context& context);

}  // namespace saccade

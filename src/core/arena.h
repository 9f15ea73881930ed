#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace saccade {

// Hands out consecutive 64-byte aligned pieces of a workspace. Built without memory it only counts,
// so one layout function serves the size query and the call.
class Arena {
 public:
  Arena() = default;
  explicit Arena(std::span<std::byte> memory) : memory_(memory.data()) {}

  template <typename T>
  T* take(std::int64_t count) {
    T* piece = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + used_);
    used_ += (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return piece;
  }

  std::size_t used() const { return used_; }

 private:
  std::byte* memory_ = nullptr;
  std::size_t used_ = 0;
};

}  // namespace saccade

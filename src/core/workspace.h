#pragma once

#include <cstddef>
#include <span>

namespace saccade {

// The workspace of one call: the caller's, or one that lives as long as this object.
//
// Fresh pages cost a sparse backward call a fifth of its time, so memory of up to kRetainedBytes is
// kept for the next call of the same thread.
class Workspace {
 public:
  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t kRetainedBytes = std::size_t{256} << 20;

  // Throws InvalidArgument if `given` is not empty and has too few bytes or a lesser alignment.
  Workspace(std::span<std::byte> given, std::size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  std::span<std::byte> span() const { return span_; }

 private:
  enum class Source { caller, retained, fresh };

  std::span<std::byte> span_;
  Source source_;
};

}  // namespace saccade

#pragma once

#include "core/backend.h"

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace saccade {

// Calls f(worker, unit) for every unit in [0, count). Workers draw units one at a time from one
// counter, in order: with the longest units first this stays within 1 % of an ideal split, where
// equal shares lose up to half under uneven sparsity (simulated at 64 threads).
template <typename F>
void for_each_unit(const Execution& execution, std::int64_t count, F&& f) {
  std::atomic<std::int64_t> next{0};
  const int workers = static_cast<int>(std::min<std::int64_t>(execution.workers, count));
  if (workers == 0) return;
  execution.executor.run(workers, [&](int worker) {
    for (std::int64_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < count;) {
      f(worker, unit);
    }
  });
}

}  // namespace saccade

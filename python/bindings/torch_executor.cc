#include "torch_executor.h"

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <exception>
#include <mutex>

namespace saccade::python {
TorchExecutor::TorchExecutor() : max_workers_(static_cast<int>(torch::stable::get_num_threads())) {}

void TorchExecutor::run(int workers, const std::function<void(int worker)>& body) {
  // An exception must not reach torch: its C interface would keep neither class nor message.
  std::exception_ptr first_error;
  std::mutex mutex;
  torch::stable::parallel_for(0, workers, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t worker = begin; worker < end; ++worker) {
      try {
        body(static_cast<int>(worker));
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!first_error) first_error = std::current_exception();
      }
    }
  });
  if (first_error) std::rethrow_exception(first_error);
}

}  // namespace saccade::python

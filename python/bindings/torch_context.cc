#include "torch_context.h"

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>

namespace saccade::python {
namespace {

constexpr std::size_t kAlignment = 64;

torch::stable::Tensor allocate(std::size_t bytes) {
  const std::int64_t size = static_cast<std::int64_t>(bytes);
  return torch::stable::empty({&size, 1}, torch::headeronly::ScalarType::Byte);
}

}  // namespace

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

Workspace::Workspace(std::size_t bytes) : memory_(allocate(bytes + kAlignment)) {
  void* begin = memory_.mutable_data_ptr();
  std::size_t space = bytes + kAlignment;
  std::align(kAlignment, bytes, begin, space);
  span_ = {static_cast<std::byte*>(begin), bytes};
}

}  // namespace saccade::python

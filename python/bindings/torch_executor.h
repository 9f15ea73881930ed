#pragma once

#include <saccade/executor.h>

#include <functional>

namespace saccade::python {

// torch's intra-op threads, so that torch.set_num_threads holds and no second pool competes with
// torch's own. Inside a parallel region of torch the bodies run one by one on the calling thread.
class TorchExecutor final : public Executor {
 public:
  TorchExecutor();

  int max_workers() const override { return max_workers_; }
  void run(int workers, const std::function<void(int worker)>& body) override;

 private:
  // Read once: the workspace is sized for this many, whatever another thread sets meanwhile.
  const int max_workers_;
};

}  // namespace saccade::python

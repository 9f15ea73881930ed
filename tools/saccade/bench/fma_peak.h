#pragma once

#include <saccade/executor.h>

namespace saccade::cli {

// The f32 fused multiply-adds that the workers of an executor can do at once, in GFLOP/s; one
// counts as two operations. This is the roof that attention is compared with: measured with the
// widest vectors of the CPU, whatever SACCADE_CPU_TARGET says. The best of what fits into 0.3 s.
double measure_fma_peak(Executor& executor, int workers);

}  // namespace saccade::cli

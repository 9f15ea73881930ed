#pragma once

#include <saccade/executor.h>

namespace saccade::cli {

// What `workers` workers of an executor can do at once: the roofs that kernels are compared with.
// With the widest vectors of the CPU, whatever SACCADE_CPU_TARGET says.

// f32 fused multiply-adds, one of which counts as two operations, in GFLOP/s, of about 10 ms.
double fma_rate(Executor& executor, int workers);

// The two products of dense attention alone, without a softmax between them, over one tile that
// stays in the caches: what f32 attention could reach if everything else were free, in GFLOP/s, of
// about 10 ms. Unlike chains of FMAs they load, so they feel who shares the core.
double product_rate(Executor& executor, int workers, int head_dim);

// The best of what fits into 0.3 s.
double fma_peak(Executor& executor, int workers);

// Reading memory that no cache holds, in GB/s; the best of 0.3 s.
double read_bandwidth(Executor& executor, int workers);

}  // namespace saccade::cli

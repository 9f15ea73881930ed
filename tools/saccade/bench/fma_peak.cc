#include "bench/fma_peak.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/fma_peak.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace saccade::cli {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Floats = hn::ScalableTag<float>;
using Vector = hn::Vec<Floats>;

// Makes the compiler believe that the accumulator is needed in a register just now: it can neither
// keep it in memory (which g++ 12 does with arrays of them, at a third of the speed) nor fold
// steps.
HWY_INLINE void pin(Vector& accumulator) {
#if HWY_ARCH_X86
  asm volatile("" : "+v"(accumulator.raw));
#elif HWY_ARCH_ARM && !HWY_HAVE_SCALABLE
  asm volatile("" : "+w"(accumulator.raw));
#else
  (void)accumulator;
#endif
}

template <typename... Accumulators>
HWY_INLINE void step(Vector factor, Vector term, Accumulators&... accumulators) {
  ((accumulators = hn::MulAdd(accumulators, factor, term)), ...);
  (pin(accumulators), ...);
}

// Does `steps` fused multiply-adds in each of twelve independent chains: more than latency times
// throughput (4 cycles x 2 per cycle on current x86), and with the operands still in 16 registers.
// The chains converge to 1. Returns the number of floating-point operations.
double run_fma_chains(std::int64_t steps) {
  const Floats floats;
  const Vector factor = hn::Set(floats, 0.999f);
  const Vector term = hn::Set(floats, 0.001f);
  Vector a = hn::Zero(floats), b = a, c = a, d = a, e = a, f = a;
  Vector g = a, h = a, i = a, j = a, k = a, l = a;
  for (std::int64_t n = 0; n < steps; ++n) step(factor, term, a, b, c, d, e, f, g, h, i, j, k, l);
  return 2.0 * 12 * static_cast<double>(hn::Lanes(floats)) * static_cast<double>(steps);
}

}  // namespace HWY_NAMESPACE
}  // namespace saccade::cli
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cli {

HWY_EXPORT(run_fma_chains);

double measure_fma_peak(Executor& executor, int workers) {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  constexpr std::int64_t kSteps = 5'000'000;  // 10 ms at 3 GHz
  constexpr Seconds kPatience(0.3);
  const auto start = Clock::now();
  double peak = 0;
  while (Clock::now() - start < kPatience) {
    std::vector<double> operations(workers);
    const auto begin = Clock::now();
    executor.run(workers, [&](int worker) {
      operations[worker] = HWY_DYNAMIC_DISPATCH(run_fma_chains)(kSteps);
    });
    const Seconds elapsed = Clock::now() - begin;
    peak = std::max(peak, 1e-9 * workers * operations[0] / elapsed.count());
  }
  return peak;
}

}  // namespace saccade::cli

#endif  // HWY_ONCE

#include "bench/roofs.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

// clang-format off
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/roofs.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// clang-format on
#include "cpu/micro_kernel-inl.h"

#include <hwy/aligned_allocator.h>

#ifndef SACCADE_BENCH_ROOFS_TILE_
#define SACCADE_BENCH_ROOFS_TILE_

namespace saccade::cli {

// One tile of attention: 128 queries, 128 keys.
constexpr std::int64_t kTokens = 128;

// Keys and values of rows that L1 can hold: see KeyValuePacking.
constexpr std::int64_t row_stride(std::int64_t head_dim) {
  return head_dim + 16;
}

// Floats that run_products needs, whatever the vectors.
constexpr std::int64_t product_floats(std::int64_t head_dim) {
  return 2 * kTokens * (row_stride(head_dim) + head_dim) + kTokens * kTokens;
}

}  // namespace saccade::cli

#endif  // SACCADE_BENCH_ROOFS_TILE_

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

// S = K q^T and O += S V, panel by panel of queries, again and again over zeros. Returns the number
// of floating-point operations.
double run_products(float* memory, std::int64_t head_dim, std::int64_t repeats) {
  namespace kernel = cpu::HWY_NAMESPACE;
  const std::int64_t width = kernel::panel_width();
  float* k = memory;
  float* v = k + kTokens * row_stride(head_dim);
  float* q = v + kTokens * row_stride(head_dim);
  float* out = q + kTokens * head_dim;
  float* weights = out + kTokens * head_dim;
  for (std::int64_t i = 0; i < repeats; ++i) {
    for (std::int64_t query = 0; query < kTokens; query += width) {
      kernel::multiply<kernel::Start::zero>(
          kernel::Product<kernel::RowsOfA::lie>{.a = k,
                                                .a_stride = row_stride(head_dim),
                                                .b = q + query * head_dim,
                                                .c = weights,
                                                .rows = kTokens,
                                                .depth = head_dim});
      kernel::multiply<kernel::Start::add>(
          kernel::Product<kernel::RowsOfA::stand>{.a = v,
                                                  .a_stride = row_stride(head_dim),
                                                  .b = weights,
                                                  .c = out + query * head_dim,
                                                  .rows = head_dim,
                                                  .depth = kTokens});
    }
  }
  return 4.0 * kTokens * kTokens * static_cast<double>(head_dim * repeats);
}

// A sum over memory; what it is means nothing.
float read_memory(const float* memory, std::int64_t count) {
  const Floats floats;
  const std::int64_t lanes = hn::Lanes(floats);
  Vector a = hn::Zero(floats), b = a, c = a, d = a;
  for (std::int64_t i = 0; i < count; i += 4 * lanes) {
    a = hn::Add(a, hn::Load(floats, memory + i));
    b = hn::Add(b, hn::Load(floats, memory + i + lanes));
    c = hn::Add(c, hn::Load(floats, memory + i + 2 * lanes));
    d = hn::Add(d, hn::Load(floats, memory + i + 3 * lanes));
  }
  return hn::GetLane(hn::SumOfLanes(floats, hn::Add(hn::Add(a, b), hn::Add(c, d))));
}

}  // namespace HWY_NAMESPACE
}  // namespace saccade::cli
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cli {

namespace {

HWY_EXPORT(run_fma_chains);
HWY_EXPORT(run_products);
HWY_EXPORT(read_memory);

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

template <typename F>
double best_of_a_while(F&& rate) {
  constexpr Seconds kPatience(0.3);
  const auto start = Clock::now();
  double best = 0;
  while (Clock::now() - start < kPatience) best = std::max(best, rate());
  return best;
}

}  // namespace

double fma_rate(Executor& executor, int workers) {
  constexpr std::int64_t kSteps = 5'000'000;  // 10 ms at 3 GHz
  std::vector<double> operations(workers);
  const auto begin = Clock::now();
  executor.run(workers, [&](int worker) {
    operations[worker] = HWY_DYNAMIC_DISPATCH(run_fma_chains)(kSteps);
  });
  const Seconds elapsed = Clock::now() - begin;
  return 1e-9 * workers * operations[0] / elapsed.count();
}

double product_rate(Executor& executor, int workers, int head_dim) {
  constexpr double kOperations = 1e9;  // 10 ms at 100 GFLOP/s
  const auto repeats =
      static_cast<std::int64_t>(kOperations / (4.0 * kTokens * kTokens * head_dim)) + 1;
  std::vector<hwy::AlignedFreeUniquePtr<float[]>> memory;
  for (int worker = 0; worker < workers; ++worker) {
    memory.push_back(hwy::AllocateAligned<float>(product_floats(head_dim)));
    std::fill_n(memory.back().get(), product_floats(head_dim), 0.0f);
  }
  std::vector<double> operations(workers);
  const auto begin = Clock::now();
  executor.run(workers, [&](int worker) {
    operations[worker] =
        HWY_DYNAMIC_DISPATCH(run_products)(memory[worker].get(), head_dim, repeats);
  });
  const Seconds elapsed = Clock::now() - begin;
  return 1e-9 * workers * operations[0] / elapsed.count();
}

double fma_peak(Executor& executor, int workers) {
  return best_of_a_while([&] { return fma_rate(executor, workers); });
}

double read_bandwidth(Executor& executor, int workers) {
  constexpr std::int64_t kFloats = std::int64_t{64} << 20;  // 256 MiB
  const hwy::AlignedFreeUniquePtr<float[]> memory = hwy::AllocateAligned<float>(kFloats);
  std::fill_n(memory.get(), kFloats, 0.0f);
  const std::int64_t share = kFloats / workers / 1024 * 1024;
  std::vector<float> sums(workers);
  return best_of_a_while([&] {
    const auto begin = Clock::now();
    executor.run(workers, [&](int worker) {
      sums[worker] = HWY_DYNAMIC_DISPATCH(read_memory)(memory.get() + worker * share, share);
    });
    const Seconds elapsed = Clock::now() - begin;
    const bool is_zero = std::ranges::all_of(sums, [](float sum) { return sum == 0; });
    return is_zero ? 4e-9 * static_cast<double>(share * workers) / elapsed.count() : 0.0;
  });
}

}  // namespace saccade::cli

#endif  // HWY_ONCE

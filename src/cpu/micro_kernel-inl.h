// Included once per instruction set; see foreach_target.h.
#if defined(SACCADE_CPU_MICRO_KERNEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SACCADE_CPU_MICRO_KERNEL_INL_H_
#undef SACCADE_CPU_MICRO_KERNEL_INL_H_
#else
#define SACCADE_CPU_MICRO_KERNEL_INL_H_
#endif

#include "cpu/words-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <type_traits>

// The one matrix product that all attention kernels are made of. Its operands are words (floats, or
// pairs of bf16 along the depth), its results floats.
//
// A panel is two vectors wide, and queries (or head dimensions) lie across its lanes. One operand
// is read by broadcasting single elements, the other by whole panels, so neither K nor V is ever
// packed, and the softmax between two products is a vertical pass without a shuffle.

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Words in a panel: 16 with AVX2, 32 with AVX-512, 8 with SSE4 and NEON.
HWY_INLINE std::ptrdiff_t panel_width() {
  return 2 * hn::Lanes(F32());
}

// How the operands of a product lie in memory; its inner loop is made for it.
enum class RowsOfA { lie, stand };      // the elements of a row, or of a column, are neighbours
enum class Panels { packed, strided };  // rows follow each other, or lie further apart

// C[rows][panel] (+)= A[rows][depth] * B[depth][panel]; depth and strides in words.
template <RowsOfA kA, Panels kB = Panels::packed, Panels kC = Panels::packed>
struct Product {
  const float* a;
  std::ptrdiff_t a_stride;  // from one row to the next where they lie, between columns otherwise
  const float* b;
  std::ptrdiff_t b_stride = panel_width();  // from one row to the next
  float* c;
  std::ptrdiff_t c_stride = panel_width();
  std::ptrdiff_t rows, depth;
};

// What C starts from.
enum class Start {
  zero,
  add,      // C as it is
  rescale,  // C times one factor per lane
};

// Memory that a later product will read or write: rows of `row_bytes` bytes, `row_stride` bytes
// apart.
struct Region {
  const char* row = nullptr;
  std::ptrdiff_t row_bytes = 0, row_stride = 0, rows = 0;

  // Rows of a tensor; there may be none.
  template <typename T>
  static Region of_rows(const T* begin,
                        std::ptrdiff_t stride,
                        std::ptrdiff_t rows,
                        std::ptrdiff_t head_dim) {
    constexpr std::ptrdiff_t kSize = sizeof(T);
    return {reinterpret_cast<const char*>(begin), head_dim * kSize, stride * kSize, rows};
  }

  // One of `parts` about equal parts: of the rows, or of the only one.
  Region part(std::ptrdiff_t index, std::ptrdiff_t parts) const {
    const std::ptrdiff_t whole = rows == 1 ? row_bytes : rows;
    const std::ptrdiff_t begin = whole * index / parts;
    const std::ptrdiff_t count = whole * (index + 1) / parts - begin;
    if (rows == 1) return {row + begin, count, count, count > 0 ? 1 : 0};
    return {row + begin * row_stride, row_bytes, row_stride, count};
  }

  // Rows of words, `stride` words apart.
  static Region of_words(const float* begin,
                         std::ptrdiff_t row_words,
                         std::ptrdiff_t stride,
                         std::ptrdiff_t rows) {
    constexpr std::ptrdiff_t kSize = sizeof(float);
    return {reinterpret_cast<const char*>(begin), row_words * kSize, stride * kSize, rows};
  }

  static Region of(const float* begin, std::ptrdiff_t words) {
    const std::ptrdiff_t bytes = words * static_cast<std::ptrdiff_t>(sizeof(float));
    return {reinterpret_cast<const char*>(begin), bytes, bytes, words > 0 ? 1 : 0};
  }
};

// Fetches regions into L2, a few cache lines with each block of the product that runs meanwhile:
// the index knows what comes next, and the hardware prefetcher cannot guess it. Worth 5 % at
// head_dim 128; one burst of prefetches gains nothing.
class Prefetch {
 public:
  Prefetch() = default;
  Prefetch(std::ptrdiff_t blocks, const Region& first, const Region& second = {})
      : walks_{Walk(first, blocks), Walk(second, blocks)} {}

  HWY_INLINE void issue() {
    walks_[0].issue();
    walks_[1].issue();
  }

 private:
  struct Walk {
    static constexpr std::ptrdiff_t kLine = 64;

    Walk() = default;
    Walk(const Region& region, std::ptrdiff_t blocks) : line(region.row) {
      if (region.rows <= 0) return;
      // Rows with less than a line between them are fetched as one.
      const bool is_one = region.row_stride < region.row_bytes + kLine;
      rows_left = is_one ? 0 : region.rows - 1;
      row_bytes = region.row_bytes + (region.rows - 1 - rows_left) * region.row_stride;
      row_end = line + row_bytes;
      gap = region.row_stride - row_bytes;
      const std::ptrdiff_t lines = (rows_left + 1) * ((row_bytes + kLine - 1) / kLine);
      lines_per_block = (lines + blocks - 1) / blocks;
    }

    HWY_INLINE void issue() {
      for (std::ptrdiff_t i = lines_per_block; i > 0; --i) {
        if (line >= row_end && !goes_on()) return;
        __builtin_prefetch(line, /*rw=*/0, /*locality=*/2);
        line += kLine;
      }
    }

    // At the next row, if there is one.
    HWY_INLINE bool goes_on() {
      if (rows_left == 0) {
        lines_per_block = 0;
        return false;
      }
      --rows_left;
      line = row_end + gap;
      row_end = line + row_bytes;
      return true;
    }

    const char* line = nullptr;
    const char* row_end = nullptr;
    std::ptrdiff_t row_bytes = 0, gap = 0;
    std::ptrdiff_t rows_left = 0;  // after this one
    std::ptrdiff_t lines_per_block = 0;
  };

  Walk walks_[2];
};

// How a number of rows is cut into blocks: sixes, then fours, then one of at most three. Twelve
// accumulators, two panel vectors and a broadcast fill 15 of 16 vector registers; a block of four
// still hides most of the FMA latency.
struct BlockCut {
  std::ptrdiff_t sixes, fours, tail;

  explicit BlockCut(std::ptrdiff_t rows) : sixes(rows / 6), fours(0), tail(0) {
    switch (rows % 6) {
      case 1:
        if (sixes > 0) {
          sixes -= 1, fours = 1, tail = 3;
        } else {
          tail = 1;
        }
        break;
      case 2:
        if (sixes > 0) {
          sixes -= 1, fours = 2;
        } else {
          tail = 2;
        }
        break;
      case 3:
        tail = 3;
        break;
      case 4:
        fours = 1;
        break;
      case 5:
        if (sixes > 0) {
          sixes -= 1, fours = 2, tail = 3;
        } else {
          fours = 1, tail = 1;
        }
        break;
      default:
        break;
    }
  }

  std::ptrdiff_t blocks() const { return sixes + fours + (tail > 0); }
};

// Keeps `v` in a register. Left alone, GCC loads the vectors of a panel again for every row.
HWY_INLINE void pin(V32& v) {
#if HWY_COMPILER_GCC && (HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3)
  asm volatile("" : "+v"(v.raw));
#else
  (void)v;
#endif
}

// Hides from the compiler where values come from. Left alone, GCC keeps the offset of every row and
// step in a register of its own, runs out of them, and reloads offsets within the inner loop.
template <typename T>
HWY_INLINE void detach(T& value) {
#if HWY_COMPILER_GCC
  asm volatile("" : "+r"(value));
#else
  (void)value;
#endif
}

// The next steps of depth.
template <RowsOfA kA, Panels kB>
class Steps {
 public:
  Steps(const float* a, std::ptrdiff_t a_stride, const float* b, std::ptrdiff_t b_stride)
      : a_(reinterpret_cast<const char*>(a)),
        middle_(a_ + 3 * a_stride * kWord),
        a_stride_(a_stride * kWord),
        b_(b),
        b_stride_(b_stride) {}

  // So many of them are addressed from one place, and then it is moved.
  static constexpr std::ptrdiff_t reach_of_a(std::ptrdiff_t unrolled) {
    return kA == RowsOfA::lie ? unrolled : std::min<std::ptrdiff_t>(unrolled, 2);
  }
  static constexpr std::ptrdiff_t reach_of_b(std::ptrdiff_t unrolled) {
    return kB == Panels::packed ? unrolled : std::min<std::ptrdiff_t>(unrolled, 2);
  }

  HWY_INLINE float a(int row, std::ptrdiff_t step) const {
    const char* at = kA == RowsOfA::stand ? a_ + step * a_stride_ + row * kWord
                     : row < 3            ? a_ + row * a_stride_ + step * kWord
                                          : middle_ + (row - 3) * a_stride_ + step * kWord;
    return *reinterpret_cast<const float*>(at);
  }
  HWY_INLINE const float* b(std::ptrdiff_t step) const {
    return b_ + step * (kB == Panels::packed ? panel_width() : b_stride_);
  }

  HWY_INLINE void advance_a(std::ptrdiff_t steps) {
    a_ += steps * (kA == RowsOfA::lie ? kWord : a_stride_);
    middle_ += steps * kWord;
  }
  HWY_INLINE void advance_b(std::ptrdiff_t steps) { b_ = b(steps); }

  // See detach.
  template <int kRows>
  HWY_INLINE void detach_addresses() {
    detach(a_);
    if (kA == RowsOfA::lie && kRows > 3) detach(middle_);
    detach(a_stride_);
    detach(b_);
    if (kB == Panels::strided) detach(b_stride_);
  }

 private:
  static constexpr std::ptrdiff_t kWord = sizeof(float);

  // Addresses and strides of A are in bytes: x86 adds them without a multiplication.
  const char* a_;
  const char* middle_;  // row 3 of rows that lie
  std::ptrdiff_t a_stride_;
  const float* b_;
  std::ptrdiff_t b_stride_;
};

// acc += the column of A times the row of B of one step, of those that can be reached.
template <typename Word, int kRows, typename AnySteps>
HWY_INLINE void multiply_step(const AnySteps& steps,
                              std::ptrdiff_t step_of_a,
                              std::ptrdiff_t step_of_b,
                              V32 (&acc)[kRows][2]) {
  const F32 d;
  const float* b = steps.b(step_of_b);
  V32 b0 = hn::Load(d, b);
  V32 b1 = hn::Load(d, b + hn::Lanes(d));
  pin(b0);
  pin(b1);
  for (int i = 0; i < kRows; ++i) {
    const V32 x = hn::Set(d, steps.a(i, step_of_a));
    acc[i][0] = Word::multiply_add(x, b0, acc[i][0]);
    acc[i][1] = Word::multiply_add(x, b1, acc[i][1]);
  }
}

// All of the depth. Whatever is no FMA, load or broadcast takes issue slots: a core that two
// threads share issues half as many for each, and time goes by the number of instructions. Hence
// eight steps at a time, from pointers that move as rarely as they can.
template <typename Word, int kRows, RowsOfA kA, Panels kB>
HWY_INLINE void multiply_depth(Steps<kA, kB> steps, std::ptrdiff_t depth, V32 (&acc)[kRows][2]) {
  constexpr std::ptrdiff_t kUnrolled = kRows >= 4 ? 8 : 1;
  constexpr std::ptrdiff_t kReachOfA = Steps<kA, kB>::reach_of_a(kUnrolled);
  constexpr std::ptrdiff_t kReachOfB = Steps<kA, kB>::reach_of_b(kUnrolled);
  HWY_UNROLL(1)
  for (std::ptrdiff_t rounds = depth / kUnrolled; rounds > 0; --rounds) {
    HWY_UNROLL(8)
    for (std::ptrdiff_t step = 0; step < kUnrolled; ++step) {
      steps.template detach_addresses<kRows>();
      multiply_step<Word>(steps, step % kReachOfA, step % kReachOfB, acc);
      if ((step + 1) % kReachOfA == 0) steps.advance_a(kReachOfA);
      if ((step + 1) % kReachOfB == 0) steps.advance_b(kReachOfB);
    }
  }
  HWY_UNROLL(1)
  for (std::ptrdiff_t left = depth % kUnrolled; left > 0; --left) {
    steps.template detach_addresses<kRows>();
    multiply_step<Word>(steps, 0, 0, acc);
    steps.advance_a(1);
    steps.advance_b(1);
  }
}

// kRows rows of the product. `factor`: one panel, for Start::rescale. `max`: one panel, raised to
// the largest results per lane if kTrackMax.
template <typename Word, int kRows, Start kStart, bool kTrackMax>
HWY_INLINE void multiply_block(const auto& steps,
                               std::ptrdiff_t depth,
                               const float* HWY_RESTRICT factor,
                               float* HWY_RESTRICT c,
                               std::ptrdiff_t c_stride,
                               float* HWY_RESTRICT max) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  V32 acc[kRows][2];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < 2; ++j) {
      acc[i][j] = kStart == Start::zero ? hn::Zero(d) : hn::Load(d, c + i * c_stride + j * lanes);
      if (kStart == Start::rescale) acc[i][j] = hn::Mul(acc[i][j], hn::Load(d, factor + j * lanes));
    }
  }
  multiply_depth<Word>(steps, depth, acc);
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < kRows; ++i) hn::Store(acc[i][j], d, c + i * c_stride + j * lanes);
    if (kTrackMax) {
      V32 m = hn::Load(d, max + j * lanes);
      for (int i = 0; i < kRows; ++i) m = hn::Max(m, acc[i][j]);
      hn::Store(m, d, max + j * lanes);
    }
  }
}

template <Start kStart,
          bool kTrackMax = false,
          typename Word = Floats,
          RowsOfA kA,
          Panels kB,
          Panels kC>
HWY_NOINLINE void multiply(const Product<kA, kB, kC>& p,
                           const float* factor = nullptr,
                           float* max = nullptr,
                           Prefetch prefetch = {}) {
  const BlockCut cut(p.rows);
  const std::ptrdiff_t depth = p.depth, a_stride = p.a_stride, b_stride = p.b_stride;
  const std::ptrdiff_t a_row = kA == RowsOfA::lie ? a_stride : 1;
  const std::ptrdiff_t c_stride = kC == Panels::packed ? panel_width() : p.c_stride;
  const float* a = p.a;
  const float* b = p.b;
  float* c = p.c;
  const auto multiply_rows = [&](auto count) HWY_ATTR {
    const Steps<kA, kB> steps(a, a_stride, b, b_stride);
    multiply_block<Word, count(), kStart, kTrackMax>(steps, depth, factor, c, c_stride, max);
    a += count() * a_row;
    c += count() * c_stride;
  };
  for (std::ptrdiff_t i = 0; i < cut.sixes; ++i) {
    prefetch.issue();
    multiply_rows(std::integral_constant<int, 6>());
  }
  for (std::ptrdiff_t i = 0; i < cut.fours; ++i) {
    prefetch.issue();
    multiply_rows(std::integral_constant<int, 4>());
  }
  if (cut.tail == 3) multiply_rows(std::integral_constant<int, 3>());
  if (cut.tail == 2) multiply_rows(std::integral_constant<int, 2>());
  if (cut.tail == 1) multiply_rows(std::integral_constant<int, 1>());
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

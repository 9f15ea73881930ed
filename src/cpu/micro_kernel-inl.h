// Included once per instruction set; see foreach_target.h.
#if defined(SACCADE_CPU_MICRO_KERNEL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SACCADE_CPU_MICRO_KERNEL_INL_H_
#undef SACCADE_CPU_MICRO_KERNEL_INL_H_
#else
#define SACCADE_CPU_MICRO_KERNEL_INL_H_
#endif

#include "cpu/words-inl.h"

#include <hwy/highway.h>

#include <cstddef>

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

// C[rows][panel] (+)= A[rows][depth] * B[depth][panel]; depth and strides in words. Either the rows
// or the columns of A have neighbours in memory: a_depth or a_row is 1.
struct Product {
  const float* a;
  std::ptrdiff_t a_row, a_depth;
  const float* b;
  std::ptrdiff_t b_depth;
  float* c;
  std::ptrdiff_t c_row;
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
    Walk(const Region& region, std::ptrdiff_t blocks) : left(region) {
      const std::ptrdiff_t lines = region.rows * ((region.row_bytes + kLine - 1) / kLine);
      lines_per_block = (lines + blocks - 1) / blocks;
    }

    HWY_INLINE void issue() {
      for (std::ptrdiff_t i = 0; i < lines_per_block && left.rows > 0; ++i) {
        __builtin_prefetch(left.row + offset, /*rw=*/0, /*locality=*/2);
        offset += kLine;
        if (offset < left.row_bytes) continue;
        offset = 0;
        left.row += left.row_stride;
        --left.rows;
      }
    }

    Region left;
    std::ptrdiff_t offset = 0;
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

// One step of depth for kRows rows; row i starts at a_of(i).
template <typename Word, int kRows, typename AddressOf>
HWY_INLINE void multiply_step(AddressOf&& a_of, const float* HWY_RESTRICT b, V32 (&acc)[kRows][2]) {
  const F32 d;
  V32 b0 = hn::Load(d, b);
  V32 b1 = hn::Load(d, b + hn::Lanes(d));
  pin(b0);
  pin(b1);
  for (int i = 0; i < kRows; ++i) {
    const V32 x = hn::Set(d, *a_of(i));
    acc[i][0] = Word::multiply_add(x, b0, acc[i][0]);
    acc[i][1] = Word::multiply_add(x, b1, acc[i][1]);
  }
}

// Steps of depth that are unrolled. What moves pointers forward would be a sixth of the
// instructions otherwise: free on a core of one's own, but a core that two threads share issues
// half as many for each.
constexpr std::ptrdiff_t kUnroll = 4;

// All of the depth, where the elements of a row of A are neighbours. Rows 0 to 2 are addressed from
// one pointer, rows 3 to 5 from another.
template <typename Word, int kRows>
HWY_INLINE void multiply_rows(const Product& p, std::ptrdiff_t row, V32 (&acc)[kRows][2]) {
  std::ptrdiff_t a_row = p.a_row;
  const std::ptrdiff_t b_depth = p.b_depth;
  const float* top = p.a + row * a_row;
  const float* bottom = top + 3 * a_row;
  const float* b = p.b;
  std::ptrdiff_t left = p.depth;
  for (; left >= kUnroll; left -= kUnroll) {
    for (std::ptrdiff_t t = 0; t < kUnroll; ++t) {
      detach(top);
      if (kRows > 3) detach(bottom);
      detach(a_row);
      const auto a_of = [=](int i) {
        return (i < 3 ? top + i * a_row : bottom + (i - 3) * a_row) + t;
      };
      multiply_step<Word>(a_of, b, acc);
      b += b_depth;
    }
    top += kUnroll;
    bottom += kUnroll;
  }
  HWY_UNROLL(1)
  for (; left > 0; --left) {
    detach(top);
    if (kRows > 3) detach(bottom);
    const auto a_of = [=](int i) { return i < 3 ? top + i * a_row : bottom + (i - 3) * a_row; };
    multiply_step<Word>(a_of, b, acc);
    ++top;
    ++bottom;
    b += b_depth;
  }
}

// The same where the elements of a column of A are neighbours: where it begins and how far apart
// columns and rows of B are.
struct ColumnsOfA {
  const float* a;
  const float* b;
  std::ptrdiff_t a_depth, b_depth;
};

template <typename Word, int kSteps, int kRows>
HWY_INLINE void multiply_next_columns(ColumnsOfA& at, V32 (&acc)[kRows][2]) {
  detach(at.a);
  detach(at.b);
  detach(at.a_depth);
  for (std::ptrdiff_t t = 0; t < kSteps; ++t) {
    const auto a_of = [column = at.a + t * at.a_depth](int i) { return column + i; };
    multiply_step<Word>(a_of, at.b + t * at.b_depth, acc);
  }
  at.a += kSteps * at.a_depth;
  at.b += kSteps * at.b_depth;
}

template <typename Word, int kRows>
HWY_INLINE void multiply_columns(const Product& p, std::ptrdiff_t row, V32 (&acc)[kRows][2]) {
  ColumnsOfA at = {p.a + row, p.b, p.a_depth, p.b_depth};
  std::ptrdiff_t left = p.depth;
  for (; left >= kUnroll; left -= kUnroll) {
    multiply_next_columns<Word, kUnroll / 2>(at, acc);
    multiply_next_columns<Word, kUnroll / 2>(at, acc);
  }
  HWY_UNROLL(1)
  for (; left > 0; --left) multiply_next_columns<Word, 1>(at, acc);
}

// kRows rows of the product. `factor`: one panel, for Start::rescale. `max`: one panel, raised to
// the largest results per lane if kTrackMax.
template <typename Word, int kRows, Start kStart, bool kTrackMax>
HWY_INLINE void multiply_block(const Product& p,
                               std::ptrdiff_t row,
                               const float* HWY_RESTRICT factor,
                               float* HWY_RESTRICT max) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  const std::ptrdiff_t c_row = p.c_row;
  float* HWY_RESTRICT c = p.c + row * c_row;
  V32 acc[kRows][2];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < 2; ++j) {
      acc[i][j] = kStart == Start::zero ? hn::Zero(d) : hn::Load(d, c + i * c_row + j * lanes);
      if (kStart == Start::rescale) acc[i][j] = hn::Mul(acc[i][j], hn::Load(d, factor + j * lanes));
    }
  }
  if (p.a_depth == 1) {
    multiply_rows<Word>(p, row, acc);
  } else {
    multiply_columns<Word>(p, row, acc);
  }
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < kRows; ++i) hn::Store(acc[i][j], d, c + i * c_row + j * lanes);
    if (kTrackMax) {
      V32 m = hn::Load(d, max + j * lanes);
      for (int i = 0; i < kRows; ++i) m = hn::Max(m, acc[i][j]);
      hn::Store(m, d, max + j * lanes);
    }
  }
}

template <Start kStart, bool kTrackMax = false, typename Word = Floats>
HWY_NOINLINE void multiply(const Product& p,
                           const float* factor = nullptr,
                           float* max = nullptr,
                           Prefetch prefetch = {}) {
  const BlockCut cut(p.rows);
  std::ptrdiff_t row = 0;
  for (std::ptrdiff_t i = 0; i < cut.sixes; ++i, row += 6) {
    prefetch.issue();
    multiply_block<Word, 6, kStart, kTrackMax>(p, row, factor, max);
  }
  for (std::ptrdiff_t i = 0; i < cut.fours; ++i, row += 4) {
    prefetch.issue();
    multiply_block<Word, 4, kStart, kTrackMax>(p, row, factor, max);
  }
  if (cut.tail == 3) multiply_block<Word, 3, kStart, kTrackMax>(p, row, factor, max);
  if (cut.tail == 2) multiply_block<Word, 2, kStart, kTrackMax>(p, row, factor, max);
  if (cut.tail == 1) multiply_block<Word, 1, kStart, kTrackMax>(p, row, factor, max);
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

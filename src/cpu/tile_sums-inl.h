// Included once per instruction set; see foreach_target.h.
#if defined(SACCADE_CPU_TILE_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SACCADE_CPU_TILE_SUMS_INL_H_
#undef SACCADE_CPU_TILE_SUMS_INL_H_
#else
#define SACCADE_CPU_TILE_SUMS_INL_H_
#endif

#include "cpu/linear_layout.h"
#include "cpu/micro_kernel-inl.h"

#include <hwy/highway.h>

#include <bit>
#include <cstdint>

// Totals over the blocks that meet, in one of two ways.
//
// Directly: one addition for each block that is met. By tables (the method of four Russians): the
// sums of every choice out of four blocks are made once, and each target adds the one that its bits
// name, which is a quarter of the additions however many blocks it meets. Both only ever add what
// is met, so that nothing cancels and nothing foreign (0 times NaN) gets in; subtracting the rest
// from the sum of all, as arXiv 2509.24006 does, loses what a large block that is not met hides.

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

constexpr std::int64_t kTables = Meetings::kWordBits / 4;  // for the blocks of one word

// Additions of one panel by tables: 11 for each table, and one for each table and target.
HWY_INLINE bool tables_pay(const Meetings& meetings) {
  const std::int64_t words = meetings.words_per_target();
  std::int64_t met = 0;
  for (std::int64_t i = 0; i < meetings.targets * words; ++i) {
    met += std::popcount(meetings.words[i]);
  }
  return met > kTables * words * (11 + meetings.targets);
}

// tables[i][bits] = the sum of those of the blocks 4 i to 4 i + 3 that `bits` name. Choices that
// name a block beyond `count` are not made.
HWY_INLINE void make_tables(const float* HWY_RESTRICT blocks,
                            std::int64_t count,
                            float* HWY_RESTRICT tables) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  const std::ptrdiff_t width = 2 * lanes;
  for (std::int64_t first = 0; first < 4 * kTables; first += 4, tables += 16 * width) {
    hn::Store(hn::Zero(d), d, tables);
    hn::Store(hn::Zero(d), d, tables + lanes);
    for (std::int64_t i = 0; i < 4 && first + i < count; ++i) {
      const V32 x0 = hn::Load(d, blocks + (first + i) * width);
      const V32 x1 = hn::Load(d, blocks + (first + i) * width + lanes);
      float* HWY_RESTRICT with = tables + (std::ptrdiff_t{1} << i) * width;
      for (std::ptrdiff_t without = 0; without < (width << i); without += width) {
        hn::Store(hn::Add(hn::Load(d, tables + without), x0), d, with + without);
        hn::Store(hn::Add(hn::Load(d, tables + without + lanes), x1), d, with + without + lanes);
      }
    }
  }
}

// The sum of what the tables say of four times four bits.
HWY_INLINE V32 look_up(const float* HWY_RESTRICT tables, std::uint32_t bits) {
  const F32 d;
  const std::ptrdiff_t width = 2 * hn::Lanes(d);
  const V32 t0 = hn::Load(d, tables + (bits & 15) * width);
  const V32 t1 = hn::Load(d, tables + (16 + (bits >> 4 & 15)) * width);
  const V32 t2 = hn::Load(d, tables + (32 + (bits >> 8 & 15)) * width);
  const V32 t3 = hn::Load(d, tables + (48 + (bits >> 12 & 15)) * width);
  return hn::Add(hn::Add(t0, t1), hn::Add(t2, t3));
}

// One panel of the totals, `stride` floats apart: those of the targets of `meetings`.
template <Start kStart>
HWY_INLINE void total_by_tables(const float* HWY_RESTRICT blocks,
                                std::int64_t count,
                                const std::uint32_t* HWY_RESTRICT word,
                                const Meetings& meetings,
                                float* HWY_RESTRICT tables,
                                float* HWY_RESTRICT total,
                                std::ptrdiff_t stride) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  const std::ptrdiff_t words = meetings.words_per_target();
  make_tables(blocks, count, tables);
  for (std::int64_t i = 0; i < meetings.targets; ++i, word += words, total += stride) {
    for (std::ptrdiff_t lane = 0; lane < 2 * lanes; lane += lanes) {
      const V32 low = look_up(tables + lane, *word);
      const V32 high = look_up(tables + 4 * 16 * 2 * lanes + lane, *word >> 16);
      V32 sum = hn::Add(low, high);
      if (kStart == Start::add) sum = hn::Add(hn::Load(d, total + lane), sum);
      hn::Store(sum, d, total + lane);
    }
  }
}

template <Start kStart>
HWY_INLINE void total_directly(const float* HWY_RESTRICT blocks,
                               const Meetings& meetings,
                               float* HWY_RESTRICT total,
                               std::ptrdiff_t stride) {
  const F32 d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  const std::uint32_t* word = meetings.words;
  for (std::int64_t target = 0; target < meetings.targets; ++target, total += stride) {
    V32 sum0 = kStart == Start::add ? hn::Load(d, total) : hn::Zero(d);
    V32 sum1 = kStart == Start::add ? hn::Load(d, total + lanes) : hn::Zero(d);
    for (std::int64_t first = 0; first < meetings.sources; first += Meetings::kWordBits) {
      for (std::uint32_t bits = *word++; bits != 0; bits &= bits - 1) {
        const float* HWY_RESTRICT block = blocks + (first + std::countr_zero(bits)) * 2 * lanes;
        sum0 = hn::Add(sum0, hn::Load(d, block));
        sum1 = hn::Add(sum1, hn::Load(d, block + lanes));
      }
    }
    hn::Store(sum0, d, total);
    hn::Store(sum1, d, total + lanes);
  }
}

// totals[target], each `floats` long, (+)= the sums of the blocks that the target meets. At least
// one source.
template <Start kStart>
void total_up(const BlockSums& sums,
              const Meetings& meetings,
              std::ptrdiff_t floats,
              float* tables,
              float* totals) {
  const std::ptrdiff_t width = panel_width();
  const bool by_tables = tables_pay(meetings);
  for (std::ptrdiff_t at = 0; at < floats; at += width) {
    const float* blocks = sums.at + at * sums.blocks;
    if (!by_tables) {
      total_directly<kStart>(blocks, meetings, totals + at, floats);
      continue;
    }
    const auto add_word = [&]<Start kWordStart>(std::int64_t word) HWY_ATTR {
      const std::int64_t first = word * Meetings::kWordBits;
      total_by_tables<kWordStart>(blocks + first * width, meetings.sources - first,
                                  meetings.words + word, meetings, tables, totals + at, floats);
    };
    add_word.template operator()<kStart>(0);
    for (std::int64_t word = 1; word < meetings.words_per_target(); ++word) {
      add_word.template operator()<Start::add>(word);
    }
  }
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

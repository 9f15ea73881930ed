// Included once per instruction set; see foreach_target.h.
#if defined(SACCADE_CPU_WORDS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SACCADE_CPU_WORDS_INL_H_
#undef SACCADE_CPU_WORDS_INL_H_
#else
#define SACCADE_CPU_WORDS_INL_H_
#endif

#include "cpu/element.h"
#include "cpu/words.h"

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

// The arithmetic of 32-bit words. Pairs of bf16 exist on AVX-512, by the dot products of
// AVX512-BF16, and on AVX2, emulated.

#undef SACCADE_BF16_PAIRS
#if (HWY_TARGET == HWY_AVX3 && HWY_COMPILER_GCC) || HWY_TARGET == HWY_AVX2
#define SACCADE_BF16_PAIRS 1
#else
#define SACCADE_BF16_PAIRS 0
#endif

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using V32 = hn::Vec<F32>;

struct Floats {
  static constexpr std::ptrdiff_t kElements = 1;
  static constexpr int kExpDegree = 5;  // of the polynomial that gives weights

  // As text on x86: left alone, GCC chooses forms of the instruction that overwrite a factor, and
  // moves sums between registers and the stack in unrolled loops.
  static HWY_INLINE V32 multiply_add(V32 a, V32 b, V32 c) {
#if HWY_COMPILER_GCC && (HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3)
    asm("vfmadd231ps %2, %1, %0" : "+v"(c.raw) : "v"(a.raw), "v"(b.raw));
    return c;
#else
    return hn::MulAdd(a, b, c);
#endif
  }
};

#if SACCADE_BF16_PAIRS

class Bf16Pairs {
  using U32 = hn::RebindToUnsigned<F32>;

 public:
  static constexpr std::ptrdiff_t kElements = 2;
  static constexpr int kExpDegree = 4;

  // c + a.odd * b.odd + a.even * b.even, summed in f32 in this order; the even element is the low
  // half of the word. The instruction takes subnormal elements for 0.
  static HWY_INLINE V32 multiply_add(V32 a, V32 b, V32 c) {
#if HWY_TARGET == HWY_AVX3
    // As text, because the kernels are compiled for AVX-512 without the extension: the compiler
    // must not use it on its own, and only calls for bf16 on machines that have it come here.
    asm("vdpbf16ps %2, %1, %0" : "+v"(c.raw) : "v"(a.raw), "v"(b.raw));
    return c;
#else
    c = hn::MulAdd(odd(a), odd(b), c);
    return hn::MulAdd(even(a), even(b), c);
#endif
  }

  // Rounds to nearest, ties away from zero: cheaper than ties to even, and one weight in 65,536 is
  // a tie. Infinity stays, and so does NaN, except with a payload whose upper seven bits and the
  // next one are all 1.
  static HWY_INLINE V32 pair(V32 even, V32 odd) {
    const U32 du;
    return hn::BitCast(F32(), hn::Or(hn::ShiftRight<16>(rounded(even)),
                                     hn::And(rounded(odd), hn::Set(du, 0xFFFF0000u))));
  }

 private:
  static HWY_INLINE hn::Vec<U32> rounded(V32 v) {
    const U32 du;
    return hn::Add(hn::BitCast(du, v), hn::Set(du, 0x8000u));
  }

  static HWY_INLINE V32 even(V32 words) {
    return without_subnormals(hn::ShiftLeft<16>(hn::BitCast(U32(), words)));
  }
  static HWY_INLINE V32 odd(V32 words) {
    const U32 du;
    return without_subnormals(hn::And(hn::BitCast(du, words), hn::Set(du, 0xFFFF0000u)));
  }
  static HWY_INLINE V32 without_subnormals(hn::Vec<U32> bits) {
    const F32 d;
    const V32 v = hn::BitCast(d, bits);
    return hn::IfThenZeroElse(hn::Lt(hn::Abs(v), hn::Set(d, 0x1p-126f)), v);
  }
};

#endif

// Calls f with the arithmetic of `words`, which must be floats where there are no pairs.
template <typename F>
HWY_INLINE void with_words(Words words, F&& f) {
#if SACCADE_BF16_PAIRS
  if (words == Words::bf16_pairs) return f(Bf16Pairs());
#endif
  (void)words;
  f(Floats());
}

// Calls f with a null pointer of the element type of tensors that become words of this kind.
template <typename Word, typename F>
HWY_INLINE void with_element_of(DType dtype, F&& f) {
  if constexpr (Word::kElements == 2) {
    f(static_cast<bf16*>(nullptr));
  } else {
    with_element(dtype, f);
  }
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

// Included once per instruction set; see foreach_target.h.
#if defined(SACCADE_CPU_EXP2_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SACCADE_CPU_EXP2_INL_H_
#undef SACCADE_CPU_EXP2_INL_H_
#else
#define SACCADE_CPU_EXP2_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// 2^x for x < 128, relative error at most 2.1e-7, or 2.7e-6 with a polynomial of degree 4 instead
// of 5; everything below -126 gives 2^-126 and NaN stays NaN. About three times the speed of
// hn::Exp, which spends its time on ranges that a softmax never meets.
//
// x = n + f with integer n and |f| <= 1/2. Adding 1.5 * 2^23 rounds x to n in the low mantissa
// bits; with the exponent bias added as well, a shift turns those bits into the float 2^n.
// 2^f is a minimax polynomial (maximal relative error 7.5e-8 before rounding, or 2.6e-6).
template <int kDegree = 5, class D>
HWY_INLINE hn::Vec<D> exp2(D d, hn::Vec<D> x) {
  const hn::RebindToSigned<D> di;
  const auto round = hn::Set(d, 12582912.0f + 127.0f);
  // The order of the operands matters: x86 returns the second one if either is NaN.
  x = hn::Max(hn::Set(d, -126.0f), x);
  const auto t = hn::Add(x, round);
  const auto power = hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, t)));
  const auto f = hn::Sub(x, hn::Sub(t, round));
  hn::Vec<D> p;
  if constexpr (kDegree == 5) {
    p = hn::Set(d, 1.327647217e-3f);
    p = hn::MulAdd(p, f, hn::Set(d, 9.675541331e-3f));
    p = hn::MulAdd(p, f, hn::Set(d, 5.550713273e-2f));
    p = hn::MulAdd(p, f, hn::Set(d, 2.402211972e-1f));
    p = hn::MulAdd(p, f, hn::Set(d, 6.931469671e-1f));
    p = hn::MulAdd(p, f, hn::Set(d, 1.000000072f));
  } else {
    static_assert(kDegree == 4);
    p = hn::Set(d, 9.570102015e-3f);
    p = hn::MulAdd(p, f, hn::Set(d, 5.591786031e-2f));
    p = hn::MulAdd(p, f, hn::Set(d, 2.402474482e-1f));
    p = hn::MulAdd(p, f, hn::Set(d, 6.931218147e-1f));
    p = hn::MulAdd(p, f, hn::Set(d, 9.999992614e-1f));
  }
  return hn::Mul(p, power);
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

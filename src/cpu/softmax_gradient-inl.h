// Included once per instruction set; see foreach_target.h.
#if defined(SACCADE_CPU_SOFTMAX_GRADIENT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SACCADE_CPU_SOFTMAX_GRADIENT_INL_H_
#undef SACCADE_CPU_SOFTMAX_GRADIENT_INL_H_
#else
#define SACCADE_CPU_SOFTMAX_GRADIENT_INL_H_
#endif

#include "cpu/exp2-inl.h"
#include "cpu/micro_kernel-inl.h"
#include "cpu/words-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// Some keys of a column beside a panel of queries, between the products.
struct GradientPanel {
  std::ptrdiff_t keys, queries;
  const float* lse;  // log2 units
  const float* delta;
  float logit_scale;  // makes products of pairs logits in log2 units
  std::ptrdiff_t stride;

  // One row for each key.
  const float* s;
  const float* dp;
  float* p;          // words, of pairs of queries: see QueryBuffers
  float* ds;         // the same
  float* ds_by_key;  // [words of keys][width], of pairs of keys; not of floats
};

// P and dS, which may take the place of S and dP.
HWY_INLINE void softmax_gradient(Floats, const GradientPanel& panel) {
  const F32 d;
  for (std::ptrdiff_t lane = 0; lane < panel_width(); lane += hn::Lanes(d)) {
    const V32 lse = hn::Load(d, panel.lse + lane);
    const V32 delta = hn::Load(d, panel.delta + lane);
    for (std::ptrdiff_t key = 0; key < panel.keys; ++key) {
      const std::ptrdiff_t at = key * panel.stride + lane;
      const V32 p = exp2<Floats::kExpDegree>(d, hn::Sub(hn::Load(d, panel.s + at), lse));
      const V32 ds = hn::Mul(p, hn::Sub(hn::Load(d, panel.dp + at), delta));
      hn::Store(p, d, panel.p + at);
      hn::Store(ds, d, panel.ds + at);
    }
  }
}

#if SACCADE_BF16_PAIRS

// Both halves of the words whose lanes hold a query, of those that pair a panel's two vectors.
HWY_INLINE V32 halves_with_query(std::ptrdiff_t queries) {
  const hn::RebindToUnsigned<F32> d;
  const std::ptrdiff_t lanes = hn::Lanes(d);
  const auto first = hn::FirstN(d, std::min(queries, lanes));
  const auto second = hn::FirstN(d, std::max<std::ptrdiff_t>(queries - lanes, 0));
  return hn::BitCast(F32(), hn::Or(hn::IfThenElseZero(first, hn::Set(d, 0x0000FFFFu)),
                                   hn::IfThenElseZero(second, hn::Set(d, 0xFFFF0000u))));
}

// P and dS of one key, as pairs of queries; leaves dS as floats in `ds`.
HWY_INLINE void softmax_gradient_of_key(const GradientPanel& panel,
                                        std::ptrdiff_t key,
                                        V32 queries,
                                        V32 (&ds)[2]) {
  const F32 d;
  const V32 scale = hn::Set(d, panel.logit_scale);
  const std::ptrdiff_t row = key * panel.stride;
  V32 p[2];
  for (std::ptrdiff_t i = 0; i < 2; ++i) {
    const std::ptrdiff_t lane = i * hn::Lanes(d);
    const V32 s = hn::Load(d, panel.s + row + lane);
    const V32 dp = hn::Load(d, panel.dp + row + lane);
    p[i] = exp2<Bf16Pairs::kExpDegree>(d, hn::MulSub(s, scale, hn::Load(d, panel.lse + lane)));
    ds[i] = hn::Mul(p[i], hn::Sub(dp, hn::Load(d, panel.delta + lane)));
  }
  hn::Store(hn::And(queries, Bf16Pairs::pair(p[0], p[1])), d, panel.p + row);
  hn::Store(hn::And(queries, Bf16Pairs::pair(ds[0], ds[1])), d, panel.ds + row);
}

HWY_INLINE void softmax_gradient(Bf16Pairs, const GradientPanel& panel) {
  const F32 d;
  const V32 queries = halves_with_query(panel.queries);
  for (std::ptrdiff_t key = 0; key < panel.keys; key += 2) {
    V32 even[2];
    V32 odd[2] = {hn::Zero(d), hn::Zero(d)};
    softmax_gradient_of_key(panel, key, queries, even);
    if (key + 1 < panel.keys) softmax_gradient_of_key(panel, key + 1, queries, odd);
    for (std::ptrdiff_t i = 0; i < 2; ++i) {
      hn::Store(Bf16Pairs::pair(even[i], odd[i]), d,
                panel.ds_by_key + key / 2 * panel_width() + i * hn::Lanes(d));
    }
  }
}

#endif

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

// Included once per instruction set; see foreach_target.h.
#if defined(SACCADE_CPU_PACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SACCADE_CPU_PACK_INL_H_
#undef SACCADE_CPU_PACK_INL_H_
#else
#define SACCADE_CPU_PACK_INL_H_
#endif

#include "cpu/element.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

// Between tensors of any dtype and stride and the f32 panels that the kernels work on.
// Elements are read and written four at a time, which every instruction set can.

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using F32x4 = hn::FixedTag<float, 4>;
using V32x4 = hn::Vec<F32x4>;

#if HWY_TARGET == HWY_SSE4

// SSE4 has no instructions for f16, and Highway's replacements give wrong infinities and NaN.

using I32x4 = hn::FixedTag<std::int32_t, 4>;

HWY_INLINE hn::Vec<hn::FixedTag<std::uint16_t, 4>> load_bits(const f16* from) {
  return hn::LoadU(hn::FixedTag<std::uint16_t, 4>(), reinterpret_cast<const std::uint16_t*>(from));
}

// Exponent and mantissa moved into place, then the exponent corrected by a product, which also
// normalises subnormal numbers; an exponent of all ones stays one.
HWY_INLINE V32x4 f16_from_bits(hn::Vec<I32x4> bits) {
  const F32x4 d;
  const I32x4 di;
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(di, 0x8000)));
  const auto magnitude = hn::And(bits, hn::Set(di, 0x7FFF));
  const auto scaled = hn::Mul(hn::BitCast(d, hn::ShiftLeft<13>(magnitude)), hn::Set(d, 0x1p112f));
  const auto is_special = hn::Gt(magnitude, hn::Set(di, 0x7BFF));
  const auto exponent = hn::IfThenElseZero(is_special, hn::Set(di, 0x7F800000));
  return hn::BitCast(d, hn::Or(hn::Or(hn::BitCast(di, scaled), exponent), sign));
}

// Rounds to nearest even. A subnormal result is what is left in the low bits of a sum with 1/2.
HWY_INLINE hn::Vec<I32x4> f16_to_bits(V32x4 v) {
  const F32x4 d;
  const I32x4 di;
  const auto bits = hn::BitCast(di, v);
  const auto magnitude = hn::And(bits, hn::Set(di, 0x7FFFFFFF));
  const auto half = hn::Set(d, 0.5f);
  const auto subnormal =
      hn::Sub(hn::BitCast(di, hn::Add(hn::BitCast(d, magnitude), half)), hn::BitCast(di, half));
  const auto odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(di, 1));
  const auto rebias = hn::Set(di, ((15 - 127) << 23) + 0xFFF);
  const auto normal = hn::ShiftRight<13>(hn::Add(hn::Add(magnitude, rebias), odd));
  const auto infinity = hn::Set(di, 0x7C00);
  const auto nan = hn::Set(di, 0x7E00);
  auto result = hn::IfThenElse(hn::Lt(magnitude, hn::Set(di, 0x38800000)), subnormal, normal);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, 0x477FFFFF)), infinity, result);
  result = hn::IfThenElse(hn::Gt(magnitude, hn::Set(di, 0x7F800000)), nan, result);
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(di, 0x8000));
  return hn::Or(result, sign);
}

#endif

HWY_INLINE V32x4 load4(const float* from) {
  return hn::LoadU(F32x4(), from);
}

HWY_INLINE V32x4 load4(const bf16* from) {
  const hn::FixedTag<std::uint16_t, 4> d16;
  const hn::FixedTag<std::uint32_t, 4> d32;
  const auto bits = hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from));
  return hn::BitCast(F32x4(), hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}

HWY_INLINE V32x4 load4(const f16* from) {
#if HWY_TARGET == HWY_SSE4
  return f16_from_bits(hn::PromoteTo(hn::FixedTag<std::int32_t, 4>(), load_bits(from)));
#else
  const hn::FixedTag<hwy::float16_t, 4> d16;
  return hn::PromoteTo(F32x4(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(from)));
#endif
}

HWY_INLINE void store4(V32x4 v, float* to) {
  hn::StoreU(v, F32x4(), to);
}

// Rounds to nearest even; NaN stays NaN.
HWY_INLINE void store4(V32x4 v, bf16* to) {
  const hn::FixedTag<std::uint16_t, 4> d16;
  const hn::FixedTag<std::uint32_t, 4> d32;
  const auto bits = hn::BitCast(d32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7FFF)));
  const auto quiet = hn::Or(bits, hn::Set(d32, 0x00400000));
  const auto chosen = hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), quiet, rounded);
  const auto high = hn::BitCast(hn::RebindToSigned<decltype(d32)>(), hn::ShiftRight<16>(chosen));
  hn::StoreU(hn::DemoteTo(d16, high), d16, reinterpret_cast<std::uint16_t*>(to));
}

HWY_INLINE void store4(V32x4 v, f16* to) {
#if HWY_TARGET == HWY_SSE4
  const hn::FixedTag<std::uint16_t, 4> d16;
  hn::StoreU(hn::DemoteTo(d16, f16_to_bits(v)), d16, reinterpret_cast<std::uint16_t*>(to));
#else
  const hn::FixedTag<hwy::float16_t, 4> d16;
  hn::StoreU(hn::DemoteTo(d16, v), d16, reinterpret_cast<hwy::float16_t*>(to));
#endif
}

// Rows of a panel's lanes are taken four at a time, or twice four side by side where vectors are
// that wide.
#if HWY_MAX_BYTES >= 32 && !HWY_HAVE_SCALABLE
using RowGroup = hn::FixedTag<float, 8>;
#else
using RowGroup = F32x4;
#endif
using VRowGroup = hn::Vec<RowGroup>;

constexpr std::ptrdiff_t kGroupRows = hn::MaxLanes(RowGroup());

// In every 16 bytes of the vectors.
HWY_INLINE void transpose4x4(VRowGroup (&m)[4]) {
  const RowGroup d;
  const VRowGroup a = hn::InterleaveLower(d, m[0], m[2]);
  const VRowGroup b = hn::InterleaveLower(d, m[1], m[3]);
  const VRowGroup e = hn::InterleaveUpper(d, m[0], m[2]);
  const VRowGroup f = hn::InterleaveUpper(d, m[1], m[3]);
  m[0] = hn::InterleaveLower(d, a, b);
  m[1] = hn::InterleaveUpper(d, a, b);
  m[2] = hn::InterleaveLower(d, e, f);
  m[3] = hn::InterleaveUpper(d, e, f);
}

// Four elements of `row` and of the row four further, if any.
template <typename LoadRow>
HWY_INLINE VRowGroup load_group(std::ptrdiff_t row, LoadRow&& load_row) {
#if HWY_MAX_BYTES >= 32 && !HWY_HAVE_SCALABLE
  return hn::Combine(RowGroup(), load_row(row + 4), load_row(row));
#else
  return load_row(row);
#endif
}

template <typename StoreRow>
HWY_INLINE void store_group(VRowGroup v, std::ptrdiff_t row, StoreRow&& store_row) {
#if HWY_MAX_BYTES >= 32 && !HWY_HAVE_SCALABLE
  store_row(row, hn::LowerHalf(F32x4(), v));
  store_row(row + 4, hn::UpperHalf(F32x4(), v));
#else
  store_row(row, v);
#endif
}

// panel[i][lane] = change(element i of row `lane`); lanes without a row get change(0).
// load4_of(row, i) gives elements [i, i + 4) of a row, change works on a whole group.
template <typename Load4, typename Change>
HWY_INLINE void transpose_rows(Load4&& load4_of,
                               std::ptrdiff_t row_count,
                               std::ptrdiff_t elements,
                               Change&& change,
                               std::ptrdiff_t width,
                               float* HWY_RESTRICT panel) {
  const auto transpose_group = [&](std::ptrdiff_t lane, std::ptrdiff_t i, auto&& load) HWY_ATTR {
    VRowGroup m[4];
    for (std::ptrdiff_t j = 0; j < 4; ++j) m[j] = change(load_group(lane + j, load));
    transpose4x4(m);
    for (std::ptrdiff_t j = 0; j < 4; ++j) {
      hn::Store(m[j], RowGroup(), panel + (i + j) * width + lane);
    }
  };
  for (std::ptrdiff_t lane = 0; lane < width; lane += kGroupRows) {
    for (std::ptrdiff_t i = 0; i < elements; i += 4) {
      const auto load = [&](std::ptrdiff_t row) HWY_ATTR { return load4_of(row, i); };
      const auto load_or_0 = [&](std::ptrdiff_t row) HWY_ATTR {
        return row < row_count ? load4_of(row, i) : hn::Zero(F32x4());
      };
      if (lane + kGroupRows <= row_count) {
        transpose_group(lane, i, load);
      } else {
        transpose_group(lane, i, load_or_0);
      }
    }
  }
}

// panel[d][lane] = factor * rows[lane][d]; lanes without a row become 0.
template <typename T>
HWY_INLINE void rows_to_panel(const T* rows,
                              std::ptrdiff_t row_stride,
                              std::ptrdiff_t row_count,
                              std::ptrdiff_t head_dim,
                              float factor,
                              std::ptrdiff_t width,
                              float* HWY_RESTRICT panel) {
  const VRowGroup scale = hn::Set(RowGroup(), factor);
  const auto load = [&](std::ptrdiff_t row, std::ptrdiff_t d)
                        HWY_ATTR { return load4(rows + row * row_stride + d); };
  const auto times_factor = [&](VRowGroup v) HWY_ATTR { return hn::Mul(scale, v); };
  transpose_rows(load, row_count, head_dim, times_factor, width, panel);
}

// panel[i][lane] = the bf16 pair (rows[lane][2 i], rows[lane][2 i + 1]), both with their signs
// changed if `negate`; lanes without a row become 0.
HWY_INLINE void rows_to_pair_panel(const bf16* rows,
                                   std::ptrdiff_t row_stride,
                                   std::ptrdiff_t row_count,
                                   std::ptrdiff_t head_dim,
                                   bool negate,
                                   std::ptrdiff_t width,
                                   float* HWY_RESTRICT panel) {
  const hn::FixedTag<std::uint16_t, 8> d16;
  const hn::RebindToUnsigned<RowGroup> d32;
  const auto signs = hn::BitCast(RowGroup(), hn::Set(d32, negate ? 0x80008000u : 0u));
  const auto load = [&](std::ptrdiff_t row, std::ptrdiff_t i) HWY_ATTR {
    const bf16* from = rows + row * row_stride + 2 * i;
    return hn::BitCast(F32x4(), hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(from)));
  };
  const auto change_signs = [&](VRowGroup v) HWY_ATTR { return hn::Xor(signs, v); };
  transpose_rows(load, row_count, head_dim / 2, change_signs, width, panel);
}

// Rows -> a panel of words. Floats are multiplied by `factor`; of pairs only its sign counts.
template <typename Word, typename T>
HWY_INLINE void rows_to_word_panel(const T* rows,
                                   std::ptrdiff_t row_stride,
                                   std::ptrdiff_t row_count,
                                   std::ptrdiff_t head_dim,
                                   float factor,
                                   std::ptrdiff_t width,
                                   float* panel) {
  if constexpr (Word::kElements == 1) {
    rows_to_panel(rows, row_stride, row_count, head_dim, factor, width, panel);
  } else {
    rows_to_pair_panel(rows, row_stride, row_count, head_dim, factor < 0, width, panel);
  }
}

// to[d] = the bf16 pair (even[d], odd[d]) for `count` elements, a multiple of four; a row that is
// null counts as zeros.
HWY_INLINE void zip_rows(const bf16* even, const bf16* odd, std::ptrdiff_t count, float* to) {
  const hn::FixedTag<std::uint16_t, 4> d16;
  const hn::FixedTag<std::uint32_t, 4> d32;
  const auto load = [&](const bf16* row, std::ptrdiff_t i) HWY_ATTR {
    if (row == nullptr) return hn::Zero(d32);
    return hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(row + i)));
  };
  for (std::ptrdiff_t i = 0; i < count; i += 4) {
    const auto pairs = hn::Or(load(even, i), hn::ShiftLeft<16>(load(odd, i)));
    hn::StoreU(hn::BitCast(F32x4(), pairs), F32x4(), to + i);
  }
}

// rows[lane][d] = factors[lane] * panel[d][lane], or += with kAdd.
template <bool kAdd = false, typename T>
HWY_INLINE void panel_to_rows(const float* HWY_RESTRICT panel,
                              std::ptrdiff_t width,
                              const float* HWY_RESTRICT factors,
                              T* rows,
                              std::ptrdiff_t row_stride,
                              std::ptrdiff_t row_count,
                              std::ptrdiff_t head_dim) {
  const RowGroup d_group;
  for (std::ptrdiff_t lane = 0; lane < row_count; lane += kGroupRows) {
    const VRowGroup scale = hn::Load(d_group, factors + lane);
    const std::ptrdiff_t count = row_count - lane;
    for (std::ptrdiff_t d = 0; d < head_dim; d += 4) {
      VRowGroup m[4];
      for (std::ptrdiff_t i = 0; i < 4; ++i) {
        m[i] = hn::Mul(scale, hn::Load(d_group, panel + (d + i) * width + lane));
      }
      transpose4x4(m);
      const auto store_row = [&](std::ptrdiff_t row, V32x4 v) HWY_ATTR {
        if (row >= count) return;
        T* to = rows + (lane + row) * row_stride + d;
        store4(kAdd ? hn::Add(load4(to), v) : v, to);
      };
      for (std::ptrdiff_t i = 0; i < 4; ++i) store_group(m[i], i, store_row);
    }
  }
}

// to[row][d] = factor * from[row][d], or += with kAdd.
template <bool kAdd = false, typename From, typename To>
HWY_INLINE void copy_rows(const From* from,
                          std::ptrdiff_t from_stride,
                          float factor,
                          To* to,
                          std::ptrdiff_t to_stride,
                          std::ptrdiff_t row_count,
                          std::ptrdiff_t head_dim) {
  const V32x4 scale = hn::Set(F32x4(), factor);
  for (std::ptrdiff_t row = 0; row < row_count; ++row) {
    if constexpr (std::is_same_v<From, float> && std::is_same_v<To, float> && !kAdd) {
      if (factor == 1.0f) {
        std::copy_n(from + row * from_stride, head_dim, to + row * to_stride);
        continue;
      }
    }
    for (std::ptrdiff_t d = 0; d < head_dim; d += 4) {
      const V32x4 scaled = hn::Mul(scale, load4(from + row * from_stride + d));
      To* target = to + row * to_stride + d;
      store4(kAdd ? hn::Add(load4(target), scaled) : scaled, target);
    }
  }
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

#pragma once

#include <saccade/tile_mask.h>

#include <cstdint>
#include <span>

namespace saccade::cli {

// Comparisons of a backend's result with the reference's. Where either is NaN or infinite both must
// be the same, else the error is infinite; such elements count no further.

// Largest |got - want|_2 / max(|want|_2, |terms|_2) over slices of `slice_size` consecutive
// elements. `terms`, if given, are the sizes of the terms that may cancel in `want`. Slices, so
// that an error of one head is not diluted by the others.
double relative_l2(std::span<const double> got,
                   std::span<const double> want,
                   std::int64_t slice_size,
                   std::span<const double> terms = {});

// Largest |got - want|.
double max_difference(std::span<const double> got, std::span<const double> want);

// Number of tiles that only one of the masks has.
std::int64_t count_different_tiles(const TileMask& a, const TileMask& b);

// Number of tiles that only one of the masks has, where a score [batch, heads, q_tiles, k_tiles]
// within `tolerance` of the threshold does not excuse it.
std::int64_t count_wrong_marks(const TileMask& got,
                               const TileMask& want,
                               std::span<const double> scores,
                               double threshold,
                               double tolerance);

}  // namespace saccade::cli

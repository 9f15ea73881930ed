#pragma once

#include "support/random.h"
#include "support/tensor.h"

#include <saccade/merge_partials.h>

#include <cstdint>
#include <vector>

namespace saccade::test {

// A partial result, or gradients of one, that owns its data.
struct OwnedPartial {
  OwnedPartial(const std::vector<std::int64_t>& out_shape, DType dtype, Layout layout);

  Partial view() const { return {out.view(), lse.view()}; }
  OwnedPartial in_f64() const;

  Tensor out, lse;
};

using OwnedPartials = std::vector<OwnedPartial>;

OwnedPartials in_f64(const OwnedPartials& partials);

// Unit-normal out and lse.
OwnedPartial random_partial(const std::vector<std::int64_t>& out_shape,
                            DType dtype,
                            Layout layout,
                            Random& random);

// Takes the mass from this share of the rows: lse -inf, and NaN in an out that nobody may read.
void empty_rows(OwnedPartial& partial, double share, Random& random);

OwnedPartial run_merge(const Context& context, const OwnedPartials& partials);
OwnedPartials run_merge_backward(const Context& context,
                                 const OwnedPartials& partials,
                                 const OwnedPartial& merged,
                                 const OwnedPartial& dmerged);

}  // namespace saccade::test

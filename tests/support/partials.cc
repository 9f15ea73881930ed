#include "support/partials.h"

#include <algorithm>
#include <limits>

namespace saccade::test {
namespace {

// Unwritten tensors like those of `partial`.
OwnedPartial unwritten_like(const OwnedPartial& partial) {
  OwnedPartial copy = partial;
  copy.out = partial.out.unwritten();
  copy.lse = partial.lse.unwritten();
  return copy;
}

std::vector<Partial> views(const OwnedPartials& partials) {
  std::vector<Partial> list;
  for (const OwnedPartial& partial : partials) list.push_back(partial.view());
  return list;
}

}  // namespace

OwnedPartial::OwnedPartial(const std::vector<std::int64_t>& out_shape, DType dtype, Layout layout)
    : out(dtype, out_shape, layout),
      lse(dtype == DType::f64 ? DType::f64 : DType::f32,
          {out_shape.begin(), out_shape.end() - 1},
          layout) {}

OwnedPartial OwnedPartial::in_f64() const {
  OwnedPartial copy = *this;
  copy.out = out.converted(DType::f64);
  copy.lse = lse.converted(DType::f64);
  return copy;
}

OwnedPartials in_f64(const OwnedPartials& partials) {
  OwnedPartials copies;
  for (const OwnedPartial& partial : partials) copies.push_back(partial.in_f64());
  return copies;
}

OwnedPartial random_partial(const std::vector<std::int64_t>& out_shape,
                            DType dtype,
                            Layout layout,
                            Random& random) {
  OwnedPartial partial(out_shape, dtype, layout);
  partial.out.generate([&] { return random.normal(); });
  partial.lse.generate([&] { return random.normal(); });
  return partial;
}

void empty_rows(OwnedPartial& partial, double share, Random& random) {
  const std::int64_t head_dim = partial.out.extent(3);
  for (std::int64_t row = 0; row < partial.lse.element_count(); ++row) {
    if (!random.chance(share)) continue;
    partial.lse.set(row, -std::numeric_limits<double>::infinity());
    for (std::int64_t d = 0; d < head_dim; ++d) {
      partial.out.set(row * head_dim + d, std::numeric_limits<double>::quiet_NaN());
    }
  }
}

OwnedPartial run_merge(const Context& context, const OwnedPartials& partials) {
  OwnedPartial merged = unwritten_like(partials.front());
  merge_partials(context, views(partials), merged.view());
  return merged;
}

OwnedPartials run_merge_backward(const Context& context,
                                 const OwnedPartials& partials,
                                 const OwnedPartial& merged,
                                 const OwnedPartial& dmerged) {
  OwnedPartials gradients;
  for (const OwnedPartial& partial : partials) gradients.push_back(unwritten_like(partial));
  merge_partials_backward(context, views(partials), merged.view(), dmerged.view(),
                          views(gradients));
  return gradients;
}

}  // namespace saccade::test

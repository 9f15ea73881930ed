#include "core/validate.h"

#include "core/require.h"

#include <saccade/error.h>

#include <fmt/format.h>

namespace saccade {
namespace {

bool is_float(DType dtype) {
  return dtype != DType::i32;
}

// One partial, or gradients of its shape, like the merged result.
void require_partial(const std::string& name, const Partial& partial, const Partial& like) {
  const auto& shape = like.out.shape;
  require_tensor(name + ".out", partial.out, like.out.dtype,
                 {shape[0], shape[1], shape[2], shape[3]});
  require_unit_stride(name + ".out", partial.out);
  require_tensor(name + ".lse", partial.lse, like.lse.dtype, {shape[0], shape[1], shape[2]});
}

void require_written(const std::string& name, const Partial& partial) {
  require_distinct_elements(name + ".out", partial.out);
  require_distinct_elements(name + ".lse", partial.lse);
}

void require_merged(const Partial& merged) {
  require_present("merged.out", merged.out, 4);
  if (!is_float(merged.out.dtype)) {
    throw InvalidArgument(fmt::format("merged.out has dtype {}, but needs f16, bf16, f32 or f64",
                                      name_of(merged.out.dtype)));
  }
  const auto& shape = merged.out.shape;
  require_unit_stride("merged.out", merged.out);
  require_tensor("merged.lse", merged.lse, merged.out.dtype == DType::f64 ? DType::f64 : DType::f32,
                 {shape[0], shape[1], shape[2]});
}

void require_partials(std::span<const Partial> partials, const Partial& merged) {
  if (partials.empty()) throw InvalidArgument("partials is empty, but needs at least 1");
  require_merged(merged);
  for (std::size_t i = 0; i < partials.size(); ++i) {
    require_partial(fmt::format("partials[{}]", i), partials[i], merged);
  }
}

}  // namespace

void validate_merge(std::span<const Partial> partials, const Partial& merged) {
  require_partials(partials, merged);
  require_written("merged", merged);
}

void validate_merge_backward(std::span<const Partial> partials,
                             const Partial& merged,
                             const Partial& dmerged,
                             std::span<const Partial> gradients) {
  require_partials(partials, merged);
  const auto& shape = merged.out.shape;
  require_tensor("dmerged.out", dmerged.out, merged.out.dtype,
                 {shape[0], shape[1], shape[2], shape[3]});
  require_unit_stride("dmerged.out", dmerged.out);
  if (dmerged.lse) {
    require_tensor("dmerged.lse", dmerged.lse, merged.lse.dtype, {shape[0], shape[1], shape[2]});
  }
  if (gradients.size() != partials.size()) {
    throw InvalidArgument(fmt::format("there are {} gradients for {} partials; they must be equal",
                                      gradients.size(), partials.size()));
  }
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const std::string name = fmt::format("gradients[{}]", i);
    require_partial(name, gradients[i], merged);
    require_written(name, gradients[i]);
  }
}

}  // namespace saccade

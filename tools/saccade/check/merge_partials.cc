#include "check/comparison.h"
#include "check/primitives.h"

#include <saccade/merge_partials.h>

#include <cmath>
#include <limits>

namespace saccade::cli {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The numbers of one partial, row-major.
struct PartialData {
  std::vector<double> out;  // [batch, heads, q_len, head_dim]
  std::vector<double> lse;  // [batch, heads, q_len]
};

struct PartialTensors {
  HostTensor out, lse;

  Partial view() const { return {out.view(), lse.view()}; }
  PartialData values() const { return {out.values(), lse.values()}; }
};

PartialTensors make_tensors(const Problem& problem, DType dtype, const PartialData* data) {
  const TileGrid& grid = problem.grid;
  PartialTensors tensors{
      HostTensor(dtype, {grid.batch, grid.heads, grid.q_len, problem.head_dim}, problem.layout),
      HostTensor(dtype == DType::f64 ? DType::f64 : DType::f32,
                 {grid.batch, grid.heads, grid.q_len})};
  if (data) {
    tensors.out.fill(data->out);
    tensors.lse.fill(data->lse);
  }
  return tensors;
}

// A fifth of the rows has no keys in this set: their out is never read.
PartialData draw_partial(Random& random, const Problem& problem) {
  const std::int64_t rows = problem.grid.batch * problem.grid.heads * problem.grid.q_len;
  PartialData data;
  for (std::int64_t row = 0; row < rows; ++row) {
    const bool is_empty = random.chance(0.2);
    data.lse.push_back(is_empty ? -kInfinity : round_to(DType::f32, 3 * random.normal()));
    for (int d = 0; d < problem.head_dim; ++d) {
      const double value = round_to(problem.dtype, random.normal());
      data.out.push_back(is_empty ? std::numeric_limits<double>::quiet_NaN() : value);
    }
  }
  return data;
}

PartialData draw_gradient(Random& random, const Problem& problem) {
  const std::int64_t rows = problem.grid.batch * problem.grid.heads * problem.grid.q_len;
  PartialData data;
  for (std::int64_t row = 0; row < rows; ++row) {
    data.lse.push_back(round_to(DType::f32, random.normal()));
    for (int d = 0; d < problem.head_dim; ++d) {
      data.out.push_back(round_to(problem.dtype, random.normal()));
    }
  }
  return data;
}

struct MergeResult {
  PartialData merged;
  std::vector<PartialData> gradients;
};

MergeResult run(const Problem& problem,
                const std::vector<PartialData>& partials,
                const PartialData& dmerged,
                Backend backend,
                DType dtype) {
  const Context context{.backend = backend};
  std::vector<PartialTensors> inputs, gradients;
  std::vector<Partial> input_views, gradient_views;
  for (const PartialData& partial : partials) {
    input_views.push_back(inputs.emplace_back(make_tensors(problem, dtype, &partial)).view());
    gradient_views.push_back(gradients.emplace_back(make_tensors(problem, dtype, nullptr)).view());
  }
  const PartialTensors merged = make_tensors(problem, dtype, nullptr);
  merge_partials(context, input_views, merged.view());
  merge_partials_backward(context, input_views, merged.view(),
                          make_tensors(problem, dtype, &dmerged).view(), gradient_views);
  MergeResult result{.merged = merged.values()};
  for (const PartialTensors& gradient : gradients) result.gradients.push_back(gradient.values());
  return result;
}

// The sizes of the terms that cancel in dlse_i = w_i * (dlse + dot(dout, out_i - out)), whose
// rounding errors are about independent: their root of the sum of squares. Where one set has nearly
// all the weight, out_i - out itself is arbitrarily small.
std::vector<double> dlse_terms(const Problem& problem,
                               const PartialData& partial,
                               const PartialData& merged,
                               const PartialData& dmerged) {
  std::vector<double> terms(merged.lse.size());
  for (std::size_t row = 0; row < terms.size(); ++row) {
    if (partial.lse[row] == -kInfinity) continue;
    double squares = std::pow(dmerged.lse[row], 2);
    for (std::size_t i = row * problem.head_dim; i < (row + 1) * problem.head_dim; ++i) {
      squares += std::pow(dmerged.out[i] * partial.out[i], 2);
    }
    terms[row] = std::exp(partial.lse[row] - merged.lse[row]) * std::sqrt(squares);
  }
  return terms;
}

double max_finite_abs(std::span<const double> values) {
  double maximum = 0;
  for (const double value : values) {
    if (std::isfinite(value)) maximum = std::max(maximum, std::abs(value));
  }
  return maximum;
}

}  // namespace

std::vector<Finding> check_merge_partials(const Problem& problem, Backend backend) {
  Random random(problem.seed, problem.number, Random::Stream::merge_partials);
  std::vector<PartialData> partials(random.integer(1, 3));
  for (PartialData& partial : partials) partial = draw_partial(random, problem);
  const PartialData dmerged = draw_gradient(random, problem);

  const MergeResult got = run(problem, partials, dmerged, backend, problem.dtype);
  const MergeResult want = run(problem, partials, dmerged, Backend::reference, DType::f64);

  const std::int64_t q_len = problem.grid.q_len;
  const std::int64_t head_size = q_len * problem.head_dim;
  const Caps caps = caps_of(problem.dtype);
  std::vector<Finding> findings;
  findings.push_back({Quantity::merged_out, "",
                      relative_l2(got.merged.out, want.merged.out, head_size), caps.forward});
  findings.push_back(
      {Quantity::merged_lse, "",
       max_difference(got.merged.lse, want.merged.lse) / (1 + max_finite_abs(want.merged.lse)),
       kLseCap});
  for (std::size_t i = 0; i < partials.size(); ++i) {
    const PartialData& got_gradient = got.gradients[i];
    const PartialData& want_gradient = want.gradients[i];
    findings.push_back({Quantity::merge_gradients, "dout of partial " + std::to_string(i),
                        relative_l2(got_gradient.out, want_gradient.out, head_size),
                        caps.gradient});
    findings.push_back({Quantity::merge_gradients, "dlse of partial " + std::to_string(i),
                        relative_l2(got_gradient.lse, want_gradient.lse, q_len,
                                    dlse_terms(problem, partials[i], want.merged, dmerged)),
                        caps.gradient});
  }
  return findings;
}

}  // namespace saccade::cli

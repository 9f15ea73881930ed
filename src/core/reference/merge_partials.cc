#include "core/element.h"
#include "core/reference/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace saccade::reference {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Calls f(batch, head, query) for every row of a partial.
template <typename F>
void for_each_row(const Partial& partial, F&& f) {
  const auto& shape = partial.lse.shape;
  for (std::int64_t batch = 0; batch < shape[0]; ++batch) {
    for (std::int64_t head = 0; head < shape[1]; ++head) {
      for (std::int64_t query = 0; query < shape[2]; ++query) f(batch, head, query);
    }
  }
}

double log_sum_exp(const std::vector<double>& values) {
  double maximum = -kInfinity;
  for (const double value : values) maximum = std::max(maximum, value);
  if (maximum == -kInfinity) maximum = 0;  // all -inf, or NaN, which the sum carries on
  double sum = 0;
  for (const double value : values) sum += std::exp(value - maximum);
  return maximum + std::log(sum);
}

// exp(lse_i - lse); a partial without mass has no weight, whatever the others are.
double weight(double partial_lse, double lse) {
  return partial_lse == -kInfinity ? 0 : std::exp(partial_lse - lse);
}

}  // namespace

void merge_partials(std::span<const Partial> partials, const Partial& merged) {
  const std::int64_t head_dim = merged.out.shape[3];
  std::vector<double> lses(partials.size());
  std::vector<double> out(head_dim);
  for_each_row(merged, [&](std::int64_t batch, std::int64_t head, std::int64_t query) {
    for (std::size_t i = 0; i < partials.size(); ++i) {
      lses[i] = load_element(partials[i].lse, offset_of(partials[i].lse, batch, head, query));
    }
    const double lse = log_sum_exp(lses);
    std::fill(out.begin(), out.end(), 0.0);
    for (std::size_t i = 0; i < partials.size(); ++i) {
      const double w = weight(lses[i], lse);
      if (w == 0) continue;
      const TensorView& source = partials[i].out;
      for (std::int64_t d = 0; d < head_dim; ++d) {
        out[d] += w * load_element(source, offset_of(source, batch, head, query, d));
      }
    }
    for (std::int64_t d = 0; d < head_dim; ++d) {
      store_element(merged.out, offset_of(merged.out, batch, head, query, d), out[d]);
    }
    store_element(merged.lse, offset_of(merged.lse, batch, head, query), lse);
  });
}

void merge_partials_backward(std::span<const Partial> partials,
                             const Partial& merged,
                             const Partial& dmerged,
                             std::span<const Partial> gradients) {
  const std::int64_t head_dim = merged.out.shape[3];
  for_each_row(merged, [&](std::int64_t batch, std::int64_t head, std::int64_t query) {
    const auto row = [&](const TensorView& tensor, std::int64_t d) {
      return load_element(tensor, offset_of(tensor, batch, head, query, d));
    };
    const auto statistic = [&](const TensorView& tensor) {
      return load_element(tensor, offset_of(tensor, batch, head, query));
    };
    const double lse = statistic(merged.lse);
    const double dlse = dmerged.lse ? statistic(dmerged.lse) : 0;
    for (std::size_t i = 0; i < partials.size(); ++i) {
      const double w = weight(statistic(partials[i].lse), lse);
      double dlse_i = 0;
      if (w != 0) {
        dlse_i = dlse;
        for (std::int64_t d = 0; d < head_dim; ++d) {
          dlse_i += row(dmerged.out, d) * (row(partials[i].out, d) - row(merged.out, d));
        }
      }
      for (std::int64_t d = 0; d < head_dim; ++d) {
        const double dout = w == 0 ? 0 : w * row(dmerged.out, d);
        store_element(gradients[i].out, offset_of(gradients[i].out, batch, head, query, d), dout);
      }
      store_element(gradients[i].lse, offset_of(gradients[i].lse, batch, head, query),
                    w == 0 ? 0 : w * dlse_i);
    }
  });
}

}  // namespace saccade::reference

#include "core/call.h"
#include "core/element.h"
#include "core/parallel.h"
#include "core/require.h"

#include <saccade/attention.h>
#include <saccade/error.h>
#include <saccade/weight_analysis.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <vector>

namespace saccade::sla {
namespace {

constexpr std::int64_t kChunks = 16;  // of rows: units of work, whose sums are added in order
constexpr std::int64_t kBlockRows = 8;
constexpr int kMostIterations = 100;
constexpr double kTolerance = 1e-3;

enum Size { kLarge, kMiddling, kSmall, kSizes };

// Parts of P whose singular values are looked at: all of it, its large weights, all others.
constexpr std::size_t kMatrices = 3;
using Vectors = std::array<std::vector<double>, kMatrices>;

// One head in f32; k lies [head_dim, keys], so that logits of many keys are made at once.
struct Head {
  std::int64_t queries, keys, head_dim;
  std::vector<float> q, k, v;
  std::vector<float> lse;
};

std::vector<float> load(const TensorView& tensor, std::int64_t batch, std::int64_t head) {
  const Matrix rows = load_head(tensor, batch, head, tensor.shape[2]);
  return {rows.values.begin(), rows.values.end()};
}

std::vector<float> transposed(const std::vector<float>& rows, std::int64_t columns) {
  const std::int64_t count = static_cast<std::int64_t>(rows.size()) / columns;
  std::vector<float> result(rows.size());
  for (std::int64_t row = 0; row < count; ++row) {
    for (std::int64_t i = 0; i < columns; ++i) result[i * count + row] = rows[row * columns + i];
  }
  return result;
}

// Rows [first, first + count) of P.
void make_weights(const Head& head, std::int64_t first, std::int64_t count, float* weights) {
  std::fill_n(weights, count * head.keys, 0.0f);
  for (std::int64_t i = 0; i < head.head_dim; ++i) {
    const float* k = head.k.data() + i * head.keys;
    for (std::int64_t row = 0; row < count; ++row) {
      const float q = head.q[(first + row) * head.head_dim + i];
      float* logits = weights + row * head.keys;
      for (std::int64_t key = 0; key < head.keys; ++key) logits[key] += q * k[key];
    }
  }
  for (std::int64_t row = 0; row < count; ++row) {
    float* of_row = weights + row * head.keys;
    const float lse = head.lse[first + row];
    for (std::int64_t key = 0; key < head.keys; ++key) of_row[key] = std::exp(of_row[key] - lse);
  }
}

// Calls f(row, weights of the row) for every row of a chunk.
template <typename F>
void for_rows_of_chunk(const Head& head, std::int64_t chunk, F&& f) {
  const std::int64_t end = head.queries * (chunk + 1) / kChunks;
  std::vector<float> weights(kBlockRows * head.keys);
  for (std::int64_t row = head.queries * chunk / kChunks; row < end; row += kBlockRows) {
    const std::int64_t count = std::min(kBlockRows, end - row);
    make_weights(head, row, count, weights.data());
    for (std::int64_t i = 0; i < count; ++i) f(row + i, weights.data() + i * head.keys);
  }
}

// What one pass over the rows of a chunk counts and adds up.
struct Sums {
  std::array<std::int64_t, kSizes> count{};
  std::array<double, kSizes> mass{}, difference{}, squares{};
  double out = 0, others_out = 0;

  void operator+=(const Sums& other) {
    for (int size = 0; size < kSizes; ++size) {
      count[size] += other.count[size];
      mass[size] += other.mass[size];
      difference[size] += other.difference[size];
      squares[size] += other.squares[size];
    }
    out += other.out;
    others_out += other.others_out;
  }
};

void add_row(const Head& head, const float* weights, Sums& sums) {
  const float one_of_keys = 1.0f / static_cast<float>(head.keys);
  std::array<std::vector<float>, kSizes> out;
  for (auto& part : out) part.assign(head.head_dim, 0.0f);
  for (std::int64_t key = 0; key < head.keys; ++key) {
    const float weight = weights[key];
    const Size size = weight > one_of_keys            ? kLarge
                      : weight < one_of_keys / 100.0f ? kSmall
                                                      : kMiddling;
    ++sums.count[size];
    sums.mass[size] += weight;
    sums.squares[size] += static_cast<double>(weight) * weight;
    const float* v = head.v.data() + key * head.head_dim;
    float* to = out[size].data();
    for (std::int64_t i = 0; i < head.head_dim; ++i) to[i] += weight * v[i];
  }
  for (std::int64_t i = 0; i < head.head_dim; ++i) {
    const float others = out[kMiddling][i] + out[kSmall][i];
    for (int size = 0; size < kSizes; ++size) sums.difference[size] += std::abs(out[size][i]);
    sums.others_out += std::abs(others);
    sums.out += std::abs(out[kLarge][i] + others);
  }
}

// to += M^T M x for a chunk of rows of each matrix.
void add_product(const Head& head, const float* weights, const Vectors& x, Vectors& to) {
  const float one_of_keys = 1.0f / static_cast<float>(head.keys);
  double large = 0, others = 0, all = 0;
  for (std::int64_t key = 0; key < head.keys; ++key) {
    const double weight = weights[key];
    const bool is_large = weights[key] > one_of_keys;
    all += weight * x[0][key];
    large += (is_large ? weight : 0.0) * x[1][key];
    others += (is_large ? 0.0 : weight) * x[2][key];
  }
  for (std::int64_t key = 0; key < head.keys; ++key) {
    const double weight = weights[key];
    const bool is_large = weights[key] > one_of_keys;
    to[0][key] += weight * all;
    to[1][key] += (is_large ? weight : 0.0) * large;
    to[2][key] += (is_large ? 0.0 : weight) * others;
  }
}

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double element : x) sum += element * element;
  return std::sqrt(sum);
}

// M^T M x of each matrix.
Vectors multiply(const Execution& execution, const Head& head, const Vectors& x) {
  const std::vector<double> zeros(head.keys);
  std::vector<Vectors> of_chunks(kChunks, {zeros, zeros, zeros});
  for_each_unit(execution, kChunks, [&](int, std::int64_t chunk) {
    for_rows_of_chunk(head, chunk, [&](std::int64_t, const float* weights) {
      add_product(head, weights, x, of_chunks[chunk]);
    });
  });
  for (std::int64_t chunk = 1; chunk < kChunks; ++chunk) {
    for (std::size_t matrix = 0; matrix < kMatrices; ++matrix) {
      for (std::int64_t key = 0; key < head.keys; ++key) {
        of_chunks[0][matrix][key] += of_chunks[chunk][matrix][key];
      }
    }
  }
  return of_chunks[0];
}

// The squares of the largest singular values, by power iteration. No weight is negative, so the
// singular vector is not either, and a vector of ones has a share of it.
std::array<double, kMatrices> squared_norms(const Execution& execution, const Head& head) {
  std::array<double, kMatrices> squares{};
  const std::vector<double> start(head.keys, 1.0 / std::sqrt(static_cast<double>(head.keys)));
  Vectors x = {start, start, start};
  for (int iteration = 0; iteration < kMostIterations; ++iteration) {
    Vectors next = multiply(execution, head, x);
    bool has_settled = true;
    for (std::size_t matrix = 0; matrix < kMatrices; ++matrix) {
      const double length = norm(next[matrix]);
      has_settled &= !(length - squares[matrix] > kTolerance * length);
      squares[matrix] = length;
      if (length == 0) continue;
      for (double& element : next[matrix]) element /= length;
    }
    if (has_settled) break;
    x = std::move(next);
  }
  return squares;
}

double ratio(double numerator, double denominator) {
  return numerator == 0 ? 0 : numerator / denominator;
}

WeightAnalysis analyse(const Execution& execution, const Head& head) {
  std::vector<Sums> of_chunks(kChunks);
  for_each_unit(execution, kChunks, [&](int, std::int64_t chunk) {
    for_rows_of_chunk(head, chunk, [&](std::int64_t, const float* weights) {
      add_row(head, weights, of_chunks[chunk]);
    });
  });
  Sums sums;
  for (const Sums& chunk : of_chunks) sums += chunk;
  const auto part = [&](Size size) {
    const double weights = static_cast<double>(head.queries) * static_cast<double>(head.keys);
    return WeightPart{static_cast<double>(sums.count[size]) / weights,
                      sums.mass[size] / static_cast<double>(head.queries),
                      ratio(sums.difference[size], sums.out)};
  };
  const double large = sums.squares[kLarge];
  const double others = sums.squares[kMiddling] + sums.squares[kSmall];
  const auto [all_norm, large_norm, others_norm] = squared_norms(execution, head);
  return {.large = part(kLarge),
          .middling = part(kMiddling),
          .small = part(kSmall),
          .error_of_large_alone = ratio(sums.others_out, sums.out),
          .rank = ratio(large + others, all_norm),
          .rank_of_large = ratio(large, large_norm),
          .rank_of_others = ratio(others, others_norm)};
}

// The lse of every row: f32 [batch, heads, queries], densely packed.
std::vector<float> lse_of(const Context& context,
                          const WeightAnalysisInputs& inputs,
                          const std::optional<double>& scale) {
  const TensorView& q = inputs.q;
  std::vector<float> lse(q.element_count() / q.shape[3]);
  std::vector<std::byte> out(q.element_count() * size_of(q.dtype));
  attention_forward(
      context, {.q = q, .k = inputs.k, .v = inputs.v}, {.scale = scale},
      {.out = TensorView::contiguous(out.data(), q.dtype, std::span(q.shape.data(), 4)),
       .lse = TensorView::contiguous(lse.data(), DType::f32, std::span(q.shape.data(), 3))});
  return lse;
}

}  // namespace

std::vector<WeightAnalysis> analyse_weights(const Context& context,
                                            const WeightAnalysisInputs& inputs,
                                            const WeightAnalysisOptions& options) {
  const TensorView& q = inputs.q;
  require_present("q", q, 4);
  if (q.dtype == DType::f64) {
    throw InvalidArgument("q must be f16, bf16 or f32 to be analysed, got f64");
  }
  Context own = context;
  own.workspace = {};
  const std::vector<float> lse = lse_of(own, inputs, options.scale);
  const auto scale = static_cast<float>(resolve_scale(options.scale, q.shape[3]));
  const Call call(own);
  const Execution execution = call.execution();
  const std::int64_t group = q.shape[1] / inputs.k.shape[1];

  std::vector<WeightAnalysis> analyses;
  for (std::int64_t batch = 0; batch < q.shape[0]; ++batch) {
    for (std::int64_t index = 0; index < q.shape[1]; ++index) {
      Head head = {.queries = q.shape[2],
                   .keys = inputs.k.shape[2],
                   .head_dim = q.shape[3],
                   .q = load(q, batch, index),
                   .k = transposed(load(inputs.k, batch, index / group), q.shape[3]),
                   .v = load(inputs.v, batch, index / group),
                   .lse = {}};
      for (float& element : head.q) element *= scale;
      const float* of_head = lse.data() + (batch * q.shape[1] + index) * q.shape[2];
      head.lse.assign(of_head, of_head + q.shape[2]);
      analyses.push_back(analyse(execution, head));
    }
  }
  return analyses;
}

}  // namespace saccade::sla

#include "support/problem.h"

#include "support/token_logits.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

Tensor random_tensor(DType dtype, std::vector<std::int64_t> shape, Layout layout, Random& random) {
  return Tensor(dtype, std::move(shape), layout).generate([&] { return random.normal(); });
}

Tensor lengths_tensor(const std::vector<std::int64_t>& lengths) {
  Tensor tensor(DType::i32, {std::ssize(lengths)});
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    tensor.set(i, static_cast<double>(lengths[i]));
  }
  return tensor;
}

// NaN in every token of a sample at and beyond its length.
void poison(Tensor& tensor, const std::vector<std::int64_t>& lengths) {
  if (!tensor) return;
  const std::int64_t tokens = tensor.extent(2);
  const std::int64_t row = tensor.view().rank == 4 ? tensor.extent(3) : 1;
  const std::int64_t per_sample = tensor.extent(1) * tokens * row;
  for (std::int64_t i = 0; i < tensor.element_count(); ++i) {
    if (i / row % tokens >= lengths[i / per_sample]) tensor.set(i, kNaN);
  }
}

}  // namespace

Problem::Problem(const ProblemShape& problem_shape,
                 DType dtype,
                 Random& random,
                 Layout tensor_layout)
    : shape(problem_shape), layout(tensor_layout) {
  const std::vector<std::int64_t> queries{shape.batch, shape.q_heads, shape.q_len, shape.head_dim};
  const std::vector<std::int64_t> keys{shape.batch, shape.k_heads, shape.k_len, shape.head_dim};
  q = random_tensor(dtype, queries, layout, random);
  k = random_tensor(dtype, keys, layout, random);
  v = random_tensor(dtype, keys, layout, random);
  dout = random_tensor(dtype, queries, layout, random);
  dlse =
      random_tensor(statistics_dtype(), {shape.batch, shape.q_heads, shape.q_len}, layout, random);
}

AttentionInputs Problem::inputs() const {
  return {.q = q.view(),
          .k = k.view(),
          .v = v.view(),
          .tiles = tiles ? tiles->view() : TileMaskView{},
          .q_lens = q_lens.view(),
          .k_lens = k_lens.view(),
          .ref = ref.view(),
          .priorities = priorities.view()};
}

AttentionForwardOptions Problem::forward_options() const {
  return {.scale = scale,
          .threshold = threshold,
          .measure = measure,
          .order = order,
          .skips_values = skips_values,
          .panel_rows = panel_rows,
          .block_q = shape.block_q,
          .block_k = shape.block_k};
}

AttentionBackwardOptions Problem::backward_options() const {
  return {.scale = scale, .block_q = shape.block_q, .block_k = shape.block_k};
}

void Problem::set_lengths(const std::vector<std::int64_t>& queries,
                          const std::vector<std::int64_t>& keys) {
  q_lens = lengths_tensor(queries);
  k_lens = lengths_tensor(keys);
  for (Tensor* tensor : {&q, &dout, &dlse, &ref}) poison(*tensor, queries);
  for (Tensor* tensor : {&k, &v}) poison(*tensor, keys);
}

DType Problem::statistics_dtype() const {
  return q.dtype() == DType::f64 ? DType::f64 : DType::f32;
}

std::int64_t Problem::valid_queries(std::int64_t sample) const {
  return q_lens ? static_cast<std::int64_t>(q_lens.get(sample)) : shape.q_len;
}

std::int64_t Problem::valid_keys(std::int64_t sample) const {
  return k_lens ? static_cast<std::int64_t>(k_lens.get(sample)) : shape.k_len;
}

double Problem::used_scale() const {
  return scale.value_or(1 / std::sqrt(static_cast<double>(shape.head_dim)));
}

bool Problem::attends(std::int64_t sample,
                      std::int64_t head,
                      std::int64_t query,
                      std::int64_t key) const {
  return query < valid_queries(sample) && key < valid_keys(sample) &&
         (!tiles || tiles->test(sample, head, query / shape.block_q, key / shape.block_k));
}

bool Problem::computes(std::int64_t tile) const {
  const TileGrid grid = shape.grid();
  const std::int64_t row = tile / grid.k_tiles();
  const std::int64_t head = row / grid.q_tiles();
  return attends(head / grid.heads, head % grid.heads, row % grid.q_tiles() * grid.block_q,
                 tile % grid.k_tiles() * grid.block_k);
}

Problem Problem::in_f64() const {
  Problem copy = *this;
  copy.layout = Layout::bhsd;
  for (Tensor* tensor : {&copy.q, &copy.k, &copy.v, &copy.dout, &copy.dlse, &copy.ref}) {
    *tensor = tensor->converted(DType::f64);
  }
  return copy;
}

double Problem::max_logit() const {
  double maximum = 0;
  for (std::int64_t b = 0; b < shape.batch; ++b) {
    for (std::int64_t h = 0; h < shape.q_heads; ++h) {
      for (const double logit : token_logits(*this, b, h).values) {
        if (std::isfinite(logit)) maximum = std::max(maximum, std::abs(logit));
      }
    }
  }
  return maximum;
}

std::string Problem::describe() const {
  std::ostringstream text;
  text << name_of(q.dtype()) << ' ' << name_of(layout) << " q [" << shape.batch << ", "
       << shape.q_heads << ", " << shape.q_len << ", " << shape.head_dim << "], k ["
       << shape.k_heads << ", " << shape.k_len << "], tiles " << shape.block_q << " x "
       << shape.block_k << (tiles ? ", masked" : ", dense") << ", scale " << used_scale() << ", "
       << name_of(order) << ", " << name_of(measure) << (ref ? ", ref" : "")
       << (wants_scores ? ", scores" : "") << (skips_values ? ", skips values" : "");
  if (threshold) text << ", threshold " << *threshold;
  for (std::int64_t b = 0; q_lens && b < shape.batch; ++b) {
    text << ", lengths " << valid_queries(b) << " x " << valid_keys(b);
  }
  return text.str();
}

TileMask random_mask(const TileGrid& grid, double active_share, Random& random) {
  std::vector<std::uint8_t> active(grid.tiles());
  for (std::uint8_t& tile : active) tile = random.chance(active_share);
  return TileMask::from_dense(grid, active);
}

Tensor random_ref(const Problem& problem, Random& random) {
  const double typical = std::log(static_cast<double>(problem.shape.k_len)) + 0.5;
  return Tensor(problem.statistics_dtype(),
                {problem.shape.batch, problem.shape.q_heads, problem.shape.q_len}, problem.layout)
      .generate([&] { return random.chance(0.02) ? -kInfinity : typical + 2 * random.normal(); });
}

void visit_strongest_first(Problem& problem, Random& random) {
  const TileGrid grid = problem.shape.grid();
  problem.order = VisitOrder::strongest;
  problem.priorities =
      Tensor(DType::f32, {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()}).generate([&] {
        if (random.chance(0.1)) return random.pick({kNaN, -kInfinity});
        return -0.5 * static_cast<double>(random.integer(0, 20));
      });
}

void spread_scores(Problem& problem, Random& random) {
  constexpr double kQuery = 4;
  if (problem.used_scale() == 0) return;
  const ProblemShape& shape = problem.shape;
  for (std::int64_t row = 0; row < shape.batch * shape.q_heads * shape.q_len; ++row) {
    problem.q.set(row * shape.head_dim, kQuery);
  }
  std::vector<double> shifts(shape.grid().k_tiles());
  for (double& shift : shifts) shift = 3 * random.normal() / (kQuery * problem.used_scale());
  for (std::int64_t row = 0; row < shape.batch * shape.k_heads * shape.k_len; ++row) {
    problem.k.set(row * shape.head_dim, shifts[row % shape.k_len / shape.block_k]);
  }
}

Problem hostile_problem(std::uint64_t seed) {
  Random random(seed);
  ProblemShape shape{.batch = random.integer(1, 2),
                     .k_heads = random.integer(1, 2),
                     .q_len = random.length(300),
                     .k_len = random.length(300),
                     .head_dim = 16 * random.length(16),
                     .block_q = random.pick({64, 128}),
                     .block_k = random.pick({64, 128})};
  shape.q_heads = shape.k_heads * random.integer(1, 3);
  const DType dtype = random.pick({DType::f32, DType::f16, DType::bf16});
  const Layout layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded});
  Problem problem(shape, dtype, random, layout);
  if (random.chance(0.7)) {
    problem.tiles = random_mask(shape.grid(), random.pick({0.0, 0.2, 0.5, 0.9}), random);
  }
  const double usual = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  if (random.chance(0.4)) problem.scale = usual * random.pick({-1.0, 0.0, 0.01, 5.0, -20.0});
  problem.order = random.pick({VisitOrder::linear, VisitOrder::reversed, VisitOrder::radial});
  problem.wants_scores = random.chance(0.5);
  if (random.chance(0.6)) {
    problem.threshold = random.pick({0.0, -kInfinity, -1.0, -2.0, -4.0, -8.0});
  }
  const bool decides = problem.wants_scores || problem.threshold;
  if (decides && random.chance(0.4)) {
    problem.measure = random.pick({Measure::largest_mass, Measure::mean_mass});
  } else if (decides && random.chance(0.5)) {
    problem.ref = random_ref(problem, random);
  }
  if (decides && random.chance(0.7)) spread_scores(problem, random);
  if (random.chance(0.3)) problem.dlse = {};
  if (random.chance(0.5)) {
    std::vector<std::int64_t> queries, keys;
    for (std::int64_t b = 0; b < shape.batch; ++b) {
      queries.push_back(random.integer(0, shape.q_len));
      keys.push_back(random.integer(0, shape.k_len));
    }
    problem.set_lengths(queries, keys);
  }
  if (random.chance(0.25)) visit_strongest_first(problem, random);
  return problem;
}

}  // namespace saccade::test

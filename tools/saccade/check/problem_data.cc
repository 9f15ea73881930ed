#include "check/problem_data.h"

#include <cmath>
#include <limits>

namespace saccade::cli {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// How far the mean logit of a block of 64 keys may be moved, either way.
constexpr double kLogitShift = 6;

std::vector<double> draw_normal(Random& random, std::int64_t count) {
  std::vector<double> values(count);
  for (double& value : values) value = random.normal();
  return values;
}

// Unit normal queries and keys alone would give nearly every tile the score 0: among 128 rows one
// finds its maximum in it. So all queries get the same direction u, and the keys of each block of
// 64 a random multiple of it, which moves the block's logits as a whole. With u of +-1 and
// amplitude a = sqrt(kLogitShift / sqrt(head_dim)) the shift is kLogitShift at most and |S| stays
// below 20.
void add_structure(Random& random, const Problem& problem, ProblemData& data) {
  const int head_dim = problem.head_dim;
  const double amplitude = std::sqrt(kLogitShift / std::sqrt(head_dim));
  std::vector<double> direction(head_dim);
  for (double& element : direction) element = amplitude * random.pick({-1.0, 1.0});
  for (std::size_t i = 0; i < data.q.size(); ++i) data.q[i] += direction[i % head_dim];

  const std::int64_t k_len = problem.grid.k_len;
  for (std::int64_t head = 0; head < problem.grid.batch * problem.k_heads; ++head) {
    double multiple = 0;
    for (std::int64_t key = 0; key < k_len; ++key) {
      if (key % 64 == 0) multiple = random.uniform(-1, 1);
      double* row = data.k.data() + (head * k_len + key) * head_dim;
      for (int d = 0; d < head_dim; ++d) row[d] += multiple * direction[d];
    }
  }
}

void round_all(DType dtype, std::vector<double>& values) {
  for (double& value : values) value = round_to(dtype, value);
}

std::vector<std::int32_t> draw_lens(Random& random, std::int64_t batch, std::int64_t limit) {
  std::vector<std::int32_t> lens(batch);
  for (std::int32_t& length : lens) {
    length = static_cast<std::int32_t>(random.pick({random.integer(0, limit), limit}));
  }
  return lens;
}

// Sets the rows of [batch, heads, length, row_size] beyond the lengths to NaN.
void poison(const std::vector<std::int32_t>& lens,
            std::int64_t heads,
            std::int64_t length,
            std::int64_t row_size,
            std::vector<double>& values) {
  if (lens.empty()) return;
  for (std::int64_t head = 0; head < static_cast<std::int64_t>(lens.size()) * heads; ++head) {
    const std::int64_t valid = lens[head / heads];
    std::fill_n(values.begin() + (head * length + valid) * row_size, (length - valid) * row_size,
                kNaN);
  }
}

void poison_beyond_lens(const Problem& problem, ProblemData& data) {
  const TileGrid& grid = problem.grid;
  const int head_dim = problem.head_dim;
  poison(data.q_lens, grid.heads, grid.q_len, head_dim, data.q);
  poison(data.q_lens, grid.heads, grid.q_len, head_dim, data.dout);
  poison(data.q_lens, grid.heads, grid.q_len, 1, data.dlse);
  poison(data.k_lens, problem.k_heads, grid.k_len, head_dim, data.k);
  poison(data.k_lens, problem.k_heads, grid.k_len, head_dim, data.v);
}

// Such as scores: few enough values for ties.
std::vector<float> draw_priorities(const Problem& problem) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Random random(problem.seed, problem.number, Random::Stream::priorities);
  std::vector<float> priorities(problem.grid.tiles());
  for (float& priority : priorities) {
    const auto score = static_cast<float>(-random.integer(0, 20));
    priority = random.chance(0.1) ? random.pick({static_cast<float>(kNaN), -kInfinity}) : score;
  }
  return priorities;
}

void plant_nan(Random& random, ProblemData& data) {
  std::vector<double>* tensor = random.pick({&data.q, &data.k, &data.v});
  (*tensor)[random.integer(0, static_cast<std::int64_t>(tensor->size()) - 1)] = kNaN;
}

double max_abs_logit(const Problem& problem, const ProblemData& data) {
  const TileGrid& grid = problem.grid;
  double maximum = 0;
  for (std::int64_t head = 0; head < grid.batch * grid.heads; ++head) {
    const double* q = data.q.data() + head * grid.q_len * problem.head_dim;
    const double* k =
        data.k.data() + head / problem.heads_per_k_head() * grid.k_len * problem.head_dim;
    for (std::int64_t i = 0; i < grid.q_len; ++i) {
      for (std::int64_t j = 0; j < grid.k_len; ++j) {
        double dot = 0;
        for (int d = 0; d < problem.head_dim; ++d) {
          dot += q[i * problem.head_dim + d] * k[j * problem.head_dim + d];
        }
        maximum = std::fmax(maximum, std::abs(dot));  // fmax passes NaN by
      }
    }
  }
  return problem.scale * maximum;
}

}  // namespace

TileMask random_mask(Random& random, const TileGrid& grid, double density) {
  std::vector<std::uint8_t> active(grid.tiles());
  for (std::int64_t row = 0; row < grid.rows(); ++row) {
    if (random.chance(0.2)) continue;
    for (std::int64_t tile = 0; tile < grid.k_tiles(); ++tile) {
      active[row * grid.k_tiles() + tile] = random.chance(density);
    }
  }
  return TileMask::from_dense(grid, active);
}

ProblemData make_data(const Problem& problem) {
  Random random(problem.seed, problem.number, Random::Stream::data);
  const TileGrid& grid = problem.grid;
  const std::int64_t q_rows = grid.batch * grid.heads * grid.q_len;
  const std::int64_t k_rows = grid.batch * problem.k_heads * grid.k_len;
  ProblemData data;
  data.q = draw_normal(random, q_rows * problem.head_dim);
  data.k = draw_normal(random, k_rows * problem.head_dim);
  data.v = draw_normal(random, k_rows * problem.head_dim);
  data.dout = draw_normal(random, q_rows * problem.head_dim);
  data.dlse = draw_normal(random, q_rows);
  add_structure(random, problem, data);
  for (std::vector<double>* tensor : {&data.q, &data.k, &data.v, &data.dout}) {
    round_all(problem.dtype, *tensor);
  }
  round_all(DType::f32, data.dlse);

  if (problem.mask == MaskKind::full) data.tiles = TileMask::full(grid);
  if (problem.mask == MaskKind::half) data.tiles = random_mask(random, grid, 0.5);
  if (problem.mask == MaskKind::sparse) data.tiles = random_mask(random, grid, 0.15);
  if (problem.has_lens) {
    data.q_lens = draw_lens(random, grid.batch, grid.q_len);
    data.k_lens = draw_lens(random, grid.batch, grid.k_len);
  }
  data.priorities = draw_priorities(problem);
  if (problem.has_nan) plant_nan(random, data);
  poison_beyond_lens(problem, data);
  data.max_logit = max_abs_logit(problem, data);
  return data;
}

}  // namespace saccade::cli

#include "check/comparison.h"
#include "check/primitives.h"

#include <saccade/update_mask.h>

#include <bit>
#include <cmath>
#include <limits>

namespace saccade::cli {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<TokenRange> draw_ranges(Random& random, std::int64_t length) {
  std::vector<TokenRange> ranges(random.integer(0, 2));
  for (TokenRange& range : ranges) {
    range.begin = random.integer(0, length);
    range.end = random.integer(range.begin, std::min(length, range.begin + 70));
  }
  return ranges;
}

// Scores around the threshold, among them the threshold itself, NaN and -inf.
HostTensor draw_scores(Random& random, const TileGrid& grid, double threshold) {
  std::vector<double> scores(grid.tiles());
  for (double& score : scores) {
    score = random.pick({random.uniform(2 * threshold, 0), threshold,
                         std::numeric_limits<double>::quiet_NaN(), -kInfinity});
  }
  HostTensor tensor(DType::f32, {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
  tensor.fill(scores);
  return tensor;
}

}  // namespace

// The decision is exact, so the result is too.
std::vector<Finding> check_update_mask(const Problem& problem, Backend backend) {
  Random random(problem.seed, problem.number, Random::Stream::update_mask);
  const TileGrid& grid = problem.grid;
  const double threshold = round_to(DType::f32, problem.threshold);
  const TileMask mask = random_mask(random, grid, 0.6);
  const TileMask computed = random_mask(random, grid, 0.6);
  const TileMask marks = random_mask(random, grid, 0.5);
  const HostTensor scores = draw_scores(random, grid, threshold);
  const std::vector<TokenRange> queries = draw_ranges(random, grid.q_len);
  const std::vector<TokenRange> keys = draw_ranges(random, grid.k_len);

  const auto run = [&](Backend on, bool from_scores) {
    UpdateMaskInputs inputs{.mask = mask.view(), .computed = computed.view()};
    UpdateMaskOptions options{.protected_queries = queries, .protected_keys = keys};
    if (from_scores) {
      inputs.scores = scores.view();
      options.threshold = threshold;
    } else {
      inputs.marks = marks.view();
    }
    TileMask next(grid);
    update_mask(Context{.backend = on}, inputs, options, next.view());
    return next;
  };
  std::vector<Finding> findings;
  for (const bool from_scores : {false, true}) {
    const std::int64_t wrong =
        count_different_tiles(run(backend, from_scores), run(Backend::reference, from_scores));
    findings.push_back({Quantity::next_mask, from_scores ? "from scores" : "from marks",
                        static_cast<double>(wrong), 0});
  }
  return findings;
}

}  // namespace saccade::cli

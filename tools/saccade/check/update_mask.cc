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
  const TileMask marks = random_mask(random, grid, 0.5);
  const HostTensor scores = draw_scores(random, grid, threshold);
  const std::vector<TokenRange> queries = draw_ranges(random, grid.q_len);
  const std::vector<TokenRange> keys = draw_ranges(random, grid.k_len);
  const std::vector<TokenRange> no_keys = draw_ranges(random, grid.k_len);
  const std::int64_t period = random.integer(0, 5);
  const double budget = random.uniform(0, 2);

  const auto computed_by = [&](Backend on) {
    TileMask computed(grid);
    computed_tiles(Context{.backend = on}, mask.view(),
                   {.reprobe_period = period,
                    .step = problem.number,
                    .protected_queries = queries,
                    .protected_keys = keys,
                    .skipped_keys = no_keys},
                   computed.view());
    return computed;
  };
  const TileMask computed = computed_by(Backend::reference);
  std::vector<Finding> findings;
  const auto compare = [&](const char* what, const TileMask& found, const TileMask& expected) {
    findings.push_back({Quantity::next_mask, what,
                        static_cast<double>(count_different_tiles(found, expected)), 0});
  };
  compare("computed", computed_by(backend), computed);

  enum class Source { from_marks, from_scores, with_budget };
  const auto run = [&](Backend on, Source source) {
    UpdateMaskInputs inputs{.mask = mask.view(), .computed = computed.view()};
    UpdateMaskOptions options{.protected_queries = queries, .protected_keys = keys};
    TileMask next(grid);
    UpdateMaskOutputs outputs{.next = next.view()};
    HostTensor spent(DType::f32, {grid.batch, grid.heads, grid.q_tiles()});
    spent.fill(std::vector<double>(spent.view().element_count()));
    if (source == Source::from_marks) {
      inputs.marks = marks.view();
    } else {
      inputs.scores = scores.view();
      options.threshold = threshold;
    }
    if (source == Source::with_budget) {
      options.mass_budget = budget;
      outputs.spent = spent.view();
    }
    update_mask(Context{.backend = on}, inputs, options, outputs);
    return next;
  };
  for (const auto& [source, name] : {std::pair{Source::from_marks, "from marks"},
                                     {Source::from_scores, "from scores"},
                                     {Source::with_budget, "with a budget"}}) {
    compare(name, run(backend, source), run(Backend::reference, source));
  }
  return findings;
}

}  // namespace saccade::cli

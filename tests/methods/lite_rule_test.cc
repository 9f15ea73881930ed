#include "lite_layer.h"

#include <saccade/error.h>
#include <saccade/merge_partials.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace saccade::lite {
namespace {

using test::Problem;
using test::Random;
using test::Tensor;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Problem small_problem(Random& random) {
  Problem problem(
      {.batch = 1, .q_heads = 2, .k_heads = 1, .q_len = 200, .k_len = 500, .head_dim = 16},
      DType::f32, random);
  test::spread_scores(problem, random);
  return problem;
}

// Another timestep: noise on everything, and now and then logits that collapse or leap, so that the
// lse of rows falls and rises by much.
void move_on(Problem& problem, Random& random) {
  const double gain = random.pick({1.0, 1.0, 0.3, 2.0});
  for (Tensor* tensor : {&problem.q, &problem.k}) {
    for (std::int64_t i = 0; i < tensor->element_count(); ++i) {
      tensor->set(i, (tensor == &problem.k ? gain : 1) * tensor->get(i) + 0.1 * random.normal());
    }
  }
}

// Softmax mass of one row in one tile, among the keys whose lse is `lse`.
double mass_of(const Problem& problem,
               std::int64_t head,
               std::int64_t query,
               std::int64_t k_tile,
               double lse) {
  const test::ProblemShape& shape = problem.shape;
  const std::int64_t end = std::min<std::int64_t>(shape.k_len, (k_tile + 1) * shape.block_k);
  double mass = 0;
  for (std::int64_t key = k_tile * shape.block_k; key < end; ++key) {
    double logit = 0;
    for (std::int64_t d = 0; d < shape.head_dim; ++d) {
      logit += problem.q.get(problem.q.index(0, head, query, d)) *
               problem.k.get(problem.k.index(0, 0, key, d));
    }
    mass += std::exp(problem.used_scale() * logit - lse);
  }
  return mass;
}

// The mass that every row loses in the tiles that a step dropped, as a share of what the step
// computed; the largest of a row of tiles.
std::vector<double> dropped_mass(const Problem& problem,
                                 const TileMask& before,
                                 const TileMask& after,
                                 const StepResult& result) {
  const TileGrid& grid = before.grid();
  std::vector<double> dropped(grid.rows());
  for (std::int64_t head = 0; head < grid.heads; ++head) {
    for (std::int64_t query = 0; query < grid.q_len; ++query) {
      const std::int64_t q_tile = query / grid.block_q;
      double mass = 0;
      for (std::int64_t k_tile = 0; k_tile < grid.k_tiles(); ++k_tile) {
        if (!before.test(0, head, q_tile, k_tile) || after.test(0, head, q_tile, k_tile)) continue;
        mass +=
            mass_of(problem, head, query, k_tile, result.lse.get(result.lse.index(0, head, query)));
      }
      double& largest = dropped[head * grid.q_tiles() + q_tile];
      largest = std::max(largest, mass);
    }
  }
  return dropped;
}

class LiteRuleTest : public testing::TestWithParam<Rule> {
 protected:
  // The rule under test, with a budget.
  static Rule with_budget(double budget) {
    Rule rule = GetParam();
    rule.mass_budget = budget;
    return rule;
  }

  Random random_{3};
};

INSTANTIATE_TEST_SUITE_P(Rules,
                         LiteRuleTest,
                         testing::Values(Rule{},
                                         Rule{.reference = Reference::lse},
                                         Rule{.measure = Measure::largest_mass}),
                         [](const auto& test) {
                           const Rule& rule = test.param;
                           return std::string(name_of(rule.measure)) + "_" +
                                  std::string(name_of(rule.reference));
                         });

// The contract of a budget, step by step, on logits that fall and leap: no row lost more than what
// was spent, and no more is spent than there is.
TEST_P(LiteRuleTest, NoRowLosesMoreMassThanTheBudget) {
  constexpr double kBudget = 0.02;
  // Scores are f32 of logits below 64: 2^score is off by 64 * 2^-24 * log2(e) at most, and a little
  // for the sums of 16 products.
  constexpr double kRounding = 1 + 1e-4;
  std::int64_t dropped_tiles = 0;
  for (int generation = 0; generation < 8; ++generation) {
    Problem problem = small_problem(random_);
    Layer layer(problem, with_budget(kBudget));
    std::vector<double> lost(layer.grid.rows());
    for (int step = 0; step < 6; ++step) {
      const TileMask before = layer.mask;
      const StepResult result = layer.run(problem, {.is_dense = step == 0, .thresholds = {0}});
      const std::vector<double> now = dropped_mass(problem, before, layer.mask, result);
      for (std::int64_t row = 0; row < layer.grid.rows(); ++row) {
        lost[row] += now[row];
        EXPECT_LE(lost[row], layer.spent.get(row) * kRounding);
        EXPECT_LE(layer.spent.get(row), kBudget * (1 + 0x1p-23));  // kept as f32, rounded up
      }
      TileMask grown = layer.mask;
      grown -= before;
      EXPECT_EQ(grown.count(), 0);
      move_on(problem, random_);
    }
    dropped_tiles += layer.grid.tiles() - layer.mask.count();
  }
  EXPECT_GT(dropped_tiles, 20);
}

// What a threshold alone promises: no weight of a tile that goes exceeds 2^threshold.
TEST_P(LiteRuleTest, NoTileGoesWhoseMassExceedsItsBound) {
  constexpr double kThreshold = -8;
  for (int generation = 0; generation < 4; ++generation) {
    Problem problem = small_problem(random_);
    Layer layer(problem, GetParam());
    for (int step = 0; step < 6; ++step) {
      const TileMask before = layer.mask;
      const StepResult result = layer.run(problem, {.thresholds = {kThreshold}});
      const std::vector<double> lost = dropped_mass(problem, before, layer.mask, result);
      TileMask gone = before;
      gone -= layer.mask;
      for (std::int64_t row = 0; row < layer.grid.rows(); ++row) {
        std::int64_t tiles = 0;
        for (const TileRange& range : gone.ranges(row)) tiles += range.end - range.begin;
        EXPECT_LE(lost[row], static_cast<double>(tiles * layer.grid.block_k) *
                                 std::exp2(kThreshold) * (1 + 1e-4));
      }
      move_on(problem, random_);
    }
  }
}

TEST_F(LiteRuleTest, TheStateKeepsTheLseOfTheStep) {
  Problem problem = small_problem(random_);
  Layer layer(problem, {.reference = Reference::lse});
  for (int step = 0; step < 3; ++step) {
    const StepResult result = layer.run(problem, {.thresholds = {-4}});
    EXPECT_EQ(layer.ref.values(), result.lse.values());
    move_on(problem, random_);
  }
}

// The first step has no lse of an earlier one: the reference tensor, NaN here, is not read.
TEST_F(LiteRuleTest, TheFirstStepMeasuresAgainstTheRunningMaximum) {
  const Problem problem = small_problem(random_);
  Layer by_lse(problem, {.reference = Reference::lse});
  Layer running(problem, {});
  const StepResult first = by_lse.run(problem, {.thresholds = {-4}});
  EXPECT_EQ(first.scores.values(), running.run(problem, {.thresholds = {-4}}).scores.values());
  EXPECT_EQ(by_lse.mask, running.mask);
  EXPECT_LT(by_lse.mask.count(), by_lse.grid.tiles());
}

TEST_F(LiteRuleTest, AStripeVisitsEveryDroppedTileOnceInAPeriod) {
  constexpr std::int64_t kPeriod = 3;
  const Problem problem = small_problem(random_);
  Layer layer(problem, {.reprobe_period = kPeriod});
  layer.run(problem, {.thresholds = {0}});  // drops nearly everything
  const TileMask dropped = ~layer.mask;
  ASSERT_GT(dropped.count(), layer.grid.tiles() / 2);
  std::vector<int> visits(layer.grid.tiles());
  for (int step = 0; step < kPeriod; ++step) {
    const StepResult result = layer.run(problem, {.thresholds = {0}});
    const std::vector<std::uint8_t> computed = result.computed.to_dense();
    for (std::size_t i = 0; i < visits.size(); ++i) visits[i] += computed[i];
  }
  const std::vector<std::uint8_t> was_dropped = dropped.to_dense();
  for (std::size_t i = 0; i < visits.size(); ++i) {
    EXPECT_EQ(visits[i], was_dropped[i] ? 1 : kPeriod) << i;
  }
}

TEST_F(LiteRuleTest, ATileThatBecameImportantComesBack) {
  Problem problem = small_problem(random_);
  Layer paper(problem, {});
  Layer probing(problem, {.reprobe_period = 4});
  for (Layer* layer : {&paper, &probing}) layer->run(problem, {.thresholds = {-4}});
  TileMask dropped = ~probing.mask;
  ASSERT_GT(dropped.count(), 0);
  // Now every key is the same: no tile is negligible.
  problem.k.generate([] { return 0.5; });
  double probed = 0;
  for (int step = 0; step < 4; ++step) {
    paper.run(problem, {.thresholds = {-4}});
    const StepResult result = probing.run(problem, {.thresholds = {-4}});
    for (const double mass : result.probed_mass.values()) probed += mass;
  }
  EXPECT_EQ(probing.mask, TileMask::full(probing.grid));
  EXPECT_EQ(~paper.mask, dropped);
  EXPECT_GT(probed, 0);
}

TEST_F(LiteRuleTest, SkippedTokensAreNeverRead) {
  Problem problem = small_problem(random_);
  problem.tiles = TileMask::full(problem.shape.grid());
  for (std::int64_t head = 0; head < 2; ++head) {
    for (std::int64_t q_tile = 0; q_tile < 2; ++q_tile) {
      problem.tiles->set(0, head, q_tile, 2, false);  // keys 128 to 191
      problem.tiles->set(0, head, q_tile, 7, false);  // keys 448 to 499, the last ones
    }
  }
  const test::ForwardResult expected = test::run_forward({}, problem);
  problem.tiles.reset();
  for (const std::int64_t key : {128, 150, 191, 448, 499}) {
    for (std::int64_t d = 0; d < 16; ++d) problem.k.set(problem.k.index(0, 0, key, d), NAN);
  }
  const TokenRange skipped[] = {{100, 192}, {400, 500}};  // rounded inward: [128, 192), [448, 500)
  for (const bool is_dense : {true, false}) {
    Layer layer(problem, {});
    const StepResult result = layer.run(problem, {.is_dense = is_dense, .thresholds = {-kInfinity}},
                                        {.skipped_keys = skipped});
    EXPECT_EQ(result.out.values(), expected.out.values());
    EXPECT_EQ(result.computed.count(), layer.grid.tiles() - 8);
  }
}

TEST_F(LiteRuleTest, SkippedQueriesGetZeros) {
  const Problem problem = small_problem(random_);
  Layer layer(problem, {});
  const TokenRange skipped[] = {{128, 200}};
  const StepResult result = layer.run(problem, {.thresholds = {-4}}, {.skipped_queries = skipped});
  EXPECT_EQ(result.out.get(result.out.index(0, 1, 128)), 0);
  EXPECT_EQ(result.lse.get(result.lse.index(0, 1, 199)), -kInfinity);
  EXPECT_NE(result.out.get(result.out.index(0, 1, 127)), 0);
}

TEST_F(LiteRuleTest, EveryHeadHasItsThreshold) {
  const Problem problem = small_problem(random_);
  Layer both(problem, {}), loose(problem, {}), strict(problem, {});
  both.run(problem, {.thresholds = {-2, -9}});
  loose.run(problem, {.thresholds = {-2}});
  strict.run(problem, {.thresholds = {-9}});
  const std::int64_t rows = both.grid.q_tiles();
  for (std::int64_t row = 0; row < rows; ++row) {
    EXPECT_EQ(both.mask.ranges(row), loose.mask.ranges(row));
    EXPECT_EQ(both.mask.ranges(rows + row), strict.mask.ranges(rows + row));
  }
  EXPECT_NE(loose.mask, strict.mask);
}

// Keys [begin, end) of a problem.
Problem shard_of(const Problem& problem, std::int64_t begin, std::int64_t end, Random& random) {
  test::ProblemShape shape = problem.shape;
  shape.k_len = end - begin;
  Problem shard(shape, DType::f32, random);
  shard.q = problem.q;
  for (const auto& [to, from] : {std::pair{&shard.k, &problem.k}, {&shard.v, &problem.v}}) {
    for (std::int64_t key = begin; key < end; ++key) {
      for (std::int64_t d = 0; d < shape.head_dim; ++d) {
        to->set(to->index(0, 0, key - begin, d), from->get(from->index(0, 0, key, d)));
      }
    }
  }
  return shard;
}

// Two shards that are told the lse of both decide like one device that has all keys, step by step;
// tiles of the shard with smaller logits go that it would keep if it looked at itself alone.
TEST_F(LiteRuleTest, ShardsOfKeysDecideLikeOne) {
  constexpr std::int64_t kSplit = 4 * 64;
  Problem problem = small_problem(random_);
  const StepPlan plan = {.thresholds = {-5}};
  const Rule rule = {.reference = Reference::lse};
  Layer whole(problem, rule);
  std::vector<Layer> layers;
  for (int step = 0; step < 5; ++step) {
    const Problem shards[] = {shard_of(problem, 0, kSplit, random_),
                              shard_of(problem, kSplit, 500, random_)};
    if (step == 0) {
      for (const Problem& shard : shards) layers.emplace_back(shard, rule);
    }
    // At the first step shards can only look at themselves, so nothing goes.
    const StepPlan now = step == 0 ? StepPlan{.is_dense = true, .thresholds = {-kInfinity}} : plan;
    const StepResult expected = whole.run(problem, now);
    std::vector<StepResult> results;
    for (int i = 0; i < 2; ++i) results.push_back(layers[i].begin(shards[i], now));
    Tensor out = expected.out.unwritten(), lse = expected.lse.unwritten();
    const Partial partials[] = {{results[0].out.view(), results[0].lse.view()},
                                {results[1].out.view(), results[1].lse.view()}};
    merge_partials({}, partials, {out.view(), lse.view()});
    for (std::int64_t i = 0; i < lse.element_count(); ++i) {
      EXPECT_NEAR(lse.get(i), expected.lse.get(i), 1e-4);
    }
    for (int i = 0; i < 2; ++i) layers[i].finish(shards[i], now, lse, results[i]);
    for (std::int64_t row = 0; row < whole.grid.rows(); ++row) {
      std::vector<TileRange> found = layers[0].mask.ranges(row);
      for (TileRange range : layers[1].mask.ranges(row)) {
        range = {range.begin + 4, range.end + 4};
        if (!found.empty() && found.back().end == range.begin) {
          found.back().end = range.end;
        } else {
          found.push_back(range);
        }
      }
      EXPECT_EQ(found, whole.mask.ranges(row)) << "step " << step << ", row " << row;
    }
    move_on(problem, random_);
  }
  EXPECT_LT(whole.mask.count(), whole.grid.tiles());
}

// The tiles of each row in the order of a step, from what is known of them; empty = linear.
std::vector<std::vector<std::int64_t>> visited(const TileMask& computed,
                                               const std::vector<double>& known) {
  const TileGrid& grid = computed.grid();
  const std::vector<std::uint8_t> bits = computed.to_dense();
  std::vector<std::vector<std::int64_t>> rows(grid.rows());
  for (std::int64_t i = 0; i < grid.tiles(); ++i) {
    if (bits[i]) rows[i / grid.k_tiles()].push_back(i);
  }
  for (std::vector<std::int64_t>& row : rows) {
    std::stable_sort(row.begin(), row.end(), [&](std::int64_t a, std::int64_t b) {
      if (known.empty() || std::isnan(known[b])) return false;
      return std::isnan(known[a]) || known[a] > known[b];
    });
  }
  return rows;
}

// Every step visits by what each tile scored when it was last computed, ties at 0 by their place
// then, and drops what attention over this list marks.
TEST_F(LiteRuleTest, StrongestFirstGoesByTheLastScoresOfEachTile) {
  const TokenRange skipped[] = {{64, 128}};  // tile 1 of every row is never computed
  Problem problem = small_problem(random_);
  Layer layer(problem, {.order = Order::strongest, .reprobe_period = 3});
  std::vector<double> last(layer.grid.tiles(), NAN);
  std::int64_t kept_scores = 0;
  for (int step = 0; step < 5; ++step) {
    const StepResult result =
        layer.run(problem, {.is_dense = step == 3, .thresholds = {-4}}, {.skipped_keys = skipped});
    Problem masked = problem;
    masked.tiles = result.computed;
    masked.wants_scores = true;
    masked.order = step == 0 ? VisitOrder::linear : VisitOrder::strongest;
    if (step > 0) {
      std::size_t next = 0;
      masked.priorities = layer.scores.unwritten();
      masked.priorities.generate([&] { return last[next++]; });
    }
    const test::ForwardResult expected = test::run_forward({}, masked);
    EXPECT_EQ(result.out.values(), expected.out.values());
    EXPECT_EQ(result.scores.values(), expected.scores.values());
    const std::vector<std::uint8_t> computed = result.computed.to_dense();
    for (const auto& row : visited(result.computed, step == 0 ? std::vector<double>() : last)) {
      for (std::size_t place = 0; place < row.size(); ++place) {
        const double score = expected.scores.get(row[place]);
        last[row[place]] = score == 0 ? static_cast<double>(place) : score;
      }
    }
    for (std::size_t i = 0; i < last.size(); ++i) {
      kept_scores += !computed[i] && !std::isnan(last[i]);
      const double found = layer.scores.get(static_cast<std::int64_t>(i));
      EXPECT_TRUE(found == last[i] || (std::isnan(found) && std::isnan(last[i]))) << i;
    }
    move_on(problem, random_);
  }
  EXPECT_GT(kept_scores, 0);
}

// The running maximum is found early, so that less is kept for having come first.
TEST_F(LiteRuleTest, StrongestFirstMarksMoreThanWeakestFirst) {
  Problem problem = small_problem(random_);
  const test::ProblemShape& shape = problem.shape;
  for (std::int64_t row = 0; row < shape.k_len; ++row) {  // ever stronger
    problem.k.set(row * shape.head_dim, static_cast<double>(row / shape.block_k) * 2);
  }
  Layer linear(problem, {}), strongest(problem, {.order = Order::strongest});
  for (int step = 0; step < 2; ++step) {
    linear.run(problem, {.thresholds = {-kInfinity}});
    strongest.run(problem, {.thresholds = {-kInfinity}});
  }
  linear.run(problem, {.thresholds = {-4}});
  strongest.run(problem, {.thresholds = {-4}});
  EXPECT_EQ(linear.mask.count(), linear.grid.tiles());
  EXPECT_LT(strongest.mask.count(), strongest.grid.tiles() / 2);
}

// At a sparse step; a dense one computes everything in full.
TEST_F(LiteRuleTest, SkippedValuesAreThoseOfAttention) {
  Problem problem = small_problem(random_);
  Layer layer(problem, {.skips_values = true}), complete(problem, {});
  for (int step = 0; step < 3; ++step) {
    const bool is_dense = step == 1;
    const TileMask before = layer.mask;
    const StepPlan plan = {.is_dense = is_dense, .thresholds = {-1}};
    const StepResult result = layer.run(problem, plan);
    Problem masked = problem;
    masked.tiles = is_dense ? TileMask::full(layer.grid) : before;
    masked.threshold = -1;
    masked.skips_values = !is_dense;
    const test::ForwardResult expected = test::run_forward({}, masked);
    EXPECT_EQ(result.out.values(), expected.out.values());
    EXPECT_EQ(result.lse.values(), expected.lse.values());
    masked.skips_values = false;
    EXPECT_EQ(result.out.values() == test::run_forward({}, masked).out.values(), is_dense);
    complete.run(problem, plan);
    EXPECT_EQ(layer.mask, complete.mask);
    move_on(problem, random_);
  }
  EXPECT_LT(layer.mask.count(), layer.grid.tiles());
}

TEST_F(LiteRuleTest, SkippedValuesGoWithScores) {
  const Problem problem = small_problem(random_);
  Layer layer(problem, {.order = Order::strongest, .reprobe_period = 2, .skips_values = true});
  Layer complete(problem, {.order = Order::strongest, .reprobe_period = 2});
  for (int step = 0; step < 3; ++step) {
    const StepResult result = layer.run(problem, {.thresholds = {-4}});
    EXPECT_NE(result.out.values(), complete.run(problem, {.thresholds = {-4}}).out.values());
    EXPECT_EQ(layer.mask, complete.mask);
  }
}

TEST_F(LiteRuleTest, AlternatingOrderTurnsAround) {
  EXPECT_EQ(visit_order(Order::alternating, 4), VisitOrder::linear);
  EXPECT_EQ(visit_order(Order::alternating, 5), VisitOrder::reversed);
  EXPECT_EQ(visit_order(Order::radial, 5), VisitOrder::radial);
  EXPECT_EQ(visit_order(Order::strongest, 5), VisitOrder::strongest);
}

TEST_F(LiteRuleTest, BadRulesNameLimitAndValue) {
  const Problem problem = small_problem(random_);
  const StepPlan usual = {.thresholds = {-1}};
  const auto message = [&](const Rule& rule, const StepPlan& plan, auto change) {
    Layer layer(problem, rule);
    StepResult result(problem);
    StateView state = layer.view();
    StepOutputs outputs = result.with_scores();
    change(state, outputs);
    try {
      step({}, problem.inputs(), {.plan = plan, .rule = rule}, state, outputs);
    } catch (const InvalidArgument& error) {
      EXPECT_TRUE(result.out.is_unwritten());
      EXPECT_EQ(layer.mask, TileMask::full(layer.grid));
      return std::string(error.what());
    }
    return std::string();
  };
  const auto nothing = [](StateView&, StepOutputs&) {};
  const auto expect = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  expect(message({.mass_budget = -1.0}, usual, nothing),
         "mass_budget is -1, but must be at least 0");
  expect(message({.reprobe_period = -2}, usual, nothing), "reprobe_period is -2");
  expect(message({.measure = Measure::mean_mass, .reference = Reference::lse}, usual, nothing),
         "reference is lse, but the mean_mass is a share of the step's own softmax");
  expect(message({.reference = Reference::lse, .order = Order::strongest}, usual, nothing),
         "order is strongest, but with the measure largest_weight and the reference lse the order "
         "changes rounding only");
  expect(message({.measure = Measure::mean_mass, .order = Order::strongest}, usual, nothing),
         "order is strongest, but with the measure mean_mass");
  expect(message({.order = Order::strongest}, usual,
                 [](StateView& s, StepOutputs&) { s.scores = {}; }),
         "state.scores is missing");
  expect(message({.order = Order::strongest}, usual,
                 [](StateView&, StepOutputs& o) { o.scores = {}; }),
         "outputs.scores is missing, but the order strongest needs it");
  expect(message({}, usual, [&](StateView& s, StepOutputs& o) { s.scores = o.scores; }),
         "state.scores is given, but the order linear has no use for it");
  expect(message({.measure = Measure::mean_mass, .skips_values = true}, usual, nothing),
         "skips_values leaves out weights that are small against the running maximum, which the "
         "measure mean_mass");
  expect(message({.reference = Reference::lse, .skips_values = true}, usual, nothing),
         "the reference lse do not tell");
  expect(message({.mass_budget = 0.1, .skips_values = true}, usual, nothing),
         "no mass_budget pays for");
  expect(message({.skips_values = true}, {.thresholds = {-1, -2}}, nothing),
         "plan.thresholds has 2, but skips_values needs one");
  expect(message({.skips_values = true}, {.thresholds = {0}}, nothing),
         "skips_values needs a threshold below 0");
  expect(message({}, {.thresholds = {}}, nothing), "plan.thresholds is empty");
  expect(message({}, {.thresholds = {-1, -2, -3}}, nothing), "3 head_thresholds for 2 query heads");
  expect(message({.mass_budget = 0.1}, usual, [](StateView& s, StepOutputs&) { s.spent = {}; }),
         "mass_budget is given without spent");
  expect(
      message({.reference = Reference::lse}, usual, [](StateView& s, StepOutputs&) { s.ref = {}; }),
      "state.ref is missing");
  expect(
      message({.reference = Reference::lse}, usual, [](StateView&, StepOutputs& o) { o.lse = {}; }),
      "outputs.lse is missing");
  expect(message({}, usual, [](StateView&, StepOutputs& o) { o.computed = {}; }),
         "outputs.computed is missing");
  const auto partial = [&](const Rule& rule, auto change) {
    Layer layer(problem, rule);
    StepResult result(problem);
    StepOutputs outputs = result.with_scores();
    change(outputs);
    const StepOptions options = {
        .plan = usual, .rule = rule, .is_first = false, .is_partial = true};
    try {
      step({}, problem.inputs(), options, layer.view(), outputs);
      finish_step({}, problem.inputs(), options, result.lse.view(), layer.view(), outputs);
    } catch (const InvalidArgument& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  expect(partial({}, [](StepOutputs&) {}), "needs the lse reference");
  expect(partial({.reference = Reference::lse}, [](StepOutputs& o) { o.fall = {}; }),
         "outputs.fall is missing");
  const TileMask marks(problem.shape.grid());
  expect(message({.mass_budget = 0.1}, usual,
                 [&](StateView&, StepOutputs& o) { o.scores = {}, o.marks = marks.view(); }),
         "outputs.scores is missing, but a mass budget needs it");
}

}  // namespace
}  // namespace saccade::lite

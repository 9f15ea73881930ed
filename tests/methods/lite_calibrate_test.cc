#include "lite_layer.h"
#include "support/expect_error.h"

#include <saccade/calibrate.h>
#include <saccade/error.h>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace saccade::lite {
namespace {

using test::Problem;
using test::Random;

constexpr double kDropsNothing = -std::numeric_limits<double>::infinity();

// What a caller of calibrate_step keeps.
class CalibratedLayer {
 public:
  CalibratedLayer(const Problem& problem, const Rule& rule)
      : grid(problem.shape.grid()),
        mask(grid),
        scores(DType::f32, {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()}),
        ref(problem.statistics_dtype(), {grid.batch, grid.heads, grid.q_len}),
        shares(DType::f32, {grid.heads}),
        out(problem.q.unwritten()),
        rule_(rule) {}

  CalibrationStateView view() const {
    return {.mask = mask.view(),
            .scores = scores.view(),
            .ref = rule_.reference == Reference::lse ? ref.view() : TensorView{},
            .shares = shares.view()};
  }

  CalibratedStep run(const Problem& problem, CalibrationOptions options) {
    options.rule = rule_;
    options.step = step_++;
    options.scale = problem.scale;
    return calibrate_step({}, problem.inputs(), options, view(), out.view());
  }

  TileGrid grid;
  TileMask mask;
  test::Tensor scores, ref, shares, out;

 private:
  Rule rule_;
  std::int64_t step_ = 0;
};

// One row of tiles and ten tiles of keys. The softmax of every row gives tile j of head h the share
// bases[h]^-j, but for a common factor, and its values are a unit vector of their own. Dropping the
// share W leaves the others with 1 / (1 - W) of theirs: the relative L1 error is 2 W.
Problem geometric(const std::vector<double>& bases) {
  constexpr int kTiles = 10;
  Random random(1);
  const auto heads = static_cast<std::int64_t>(bases.size());
  Problem problem({.q_heads = heads, .k_heads = heads, .q_len = 128, .k_len = kTiles * 64},
                  DType::f32, random);
  problem.scale = 1;
  for (test::Tensor* tensor : {&problem.q, &problem.k, &problem.v}) {
    tensor->generate([] { return 0.0; });
  }
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t row = 0; row < 128; ++row) problem.q.set(problem.q.index(0, head, row), 1);
    for (std::int64_t key = 0; key < kTiles * 64; ++key) {
      const auto tile = static_cast<double>(key / 64);
      problem.k.set(problem.k.index(0, head, key), -tile * std::log(bases[head]));
      problem.v.set(problem.v.index(0, head, key, key / 64), 1);
    }
  }
  return problem;
}

double dropped_share(double base, std::int64_t kept) {
  double all = 0, dropped = 0;
  for (int tile = 0; tile < 10; ++tile) {
    all += std::pow(base, -tile);
    if (tile >= kept) dropped += std::pow(base, -tile);
  }
  return dropped / all;
}

TEST(LiteCalibrateTest, FindsTheRightThresholdOfEachHead) {
  const std::vector<double> bases = {2, 4, 8};
  const Problem problem = geometric(bases);
  CalibratedLayer layer(problem, {});
  layer.run(problem, {});
  for (const double target : {0.3, 0.01}) {
    CalibratedLayer trial = layer;
    const CalibratedStep step = trial.run(problem, {.target = target, .most_work = 10});
    for (std::int64_t head = 0; head < 3; ++head) {
      std::int64_t kept = 10;
      while (2 * dropped_share(bases[head], kept - 1) <= target) --kept;
      EXPECT_EQ(trial.mask.ranges(head), (std::vector<TileRange>{{0, kept}})) << bases[head];
      EXPECT_NEAR(step.thresholds[head], -static_cast<double>(kept) * std::log2(bases[head]), 1e-4);
      EXPECT_NEAR(step.errors[head].relative_l1(), 2 * dropped_share(bases[head], kept), 1e-5);
    }
    EXPECT_EQ(step.computed_tiles, trial.mask.count());
  }
}

TEST(LiteCalibrateTest, OneThresholdForAllHeadsKeepsTheirCommonError) {
  const Problem problem = geometric({2, 8});
  CalibratedLayer layer(problem, {});
  layer.run(problem, {});
  const CalibratedStep step =
      layer.run(problem, {.target = 0.1, .by_head = false, .most_work = 10});
  EXPECT_EQ(step.thresholds[0], step.thresholds[1]);
  EXPECT_GT(step.thresholds[0], kDropsNothing);
  ErrorSums sums = step.errors[0];
  sums += step.errors[1];
  EXPECT_LE(sums.relative_l1(), 0.1);
  EXPECT_GT(step.errors[0].relative_l1(), step.errors[1].relative_l1());
}

TEST(LiteCalibrateTest, WhatWasDroppedStaysAndNothingMoreGoesOnceTheTargetIsUsedUp) {
  const Problem problem = geometric({2});
  CalibratedLayer layer(problem, {});
  layer.run(problem, {});
  layer.run(problem, {.target = 0.1, .most_work = 10});
  const TileMask after = layer.mask;
  // The same inputs: the error that is there is all that may be.
  const CalibratedStep again = layer.run(problem, {.target = 0.1, .most_work = 10});
  EXPECT_EQ(again.thresholds[0], kDropsNothing);
  EXPECT_EQ(layer.mask, after);
  EXPECT_NEAR(again.errors[0].relative_l1(), 2 * dropped_share(2, after.count()), 1e-5);
  // A stricter target cannot be kept any more, and the error says so.
  const CalibratedStep stricter = layer.run(problem, {.target = 0.001});
  EXPECT_EQ(layer.mask, after);
  EXPECT_GT(stricter.errors[0].relative_l1(), 0.001);
  const CalibratedStep looser = layer.run(problem, {.target = 0.6, .most_work = 10});
  EXPECT_LT(layer.mask.count(), after.count());
  EXPECT_LE(looser.errors[0].relative_l1(), 0.6);
}

// A generation of other inputs at each step, with scores on both sides of any threshold.
std::vector<Problem> generation(std::uint64_t seed, int steps) {
  std::vector<Problem> problems;
  Random random(seed);
  for (int step = 0; step < steps; ++step) {
    problems.emplace_back(
        test::ProblemShape{
            .batch = 2, .q_heads = 4, .k_heads = 2, .q_len = 300, .k_len = 1000, .block_q = 64},
        DType::f32, random);
    test::spread_scores(problems.back(), random);
  }
  return problems;
}

// The schedule that calibration found, used on the same inputs, computes the tiles and makes the
// errors that calibration said.
void expect_replay(const Rule& rule, bool by_head, std::int64_t dense_steps) {
  constexpr double kTarget = 0.05;
  const std::vector<Problem> problems = generation(5, 6);
  CalibratedLayer calibrated(problems[0], rule);
  std::vector<CalibratedStep> found;
  std::vector<TileMask> masks;
  std::vector<test::Tensor> dense;
  for (std::size_t i = 0; i < problems.size(); ++i) {
    const bool is_dense = static_cast<std::int64_t>(i) < dense_steps;
    found.push_back(
        calibrated.run(problems[i], {.is_dense = is_dense, .target = kTarget, .by_head = by_head}));
    masks.push_back(calibrated.mask);
    dense.push_back(calibrated.out);
    Problem plain = problems[i];
    plain.order = visit_order(rule.order, static_cast<std::int64_t>(i));
    EXPECT_EQ(calibrated.out.bytes(), test::run_forward({}, plain).out.bytes());
  }
  Layer used(problems[0], rule);
  for (std::size_t i = 0; i < problems.size(); ++i) {
    const bool is_dense = static_cast<std::int64_t>(i) < dense_steps;
    const std::vector<double> thresholds =
        i + 1 < found.size() ? found[i + 1].thresholds : std::vector<double>(4, kDropsNothing);
    const StepResult result = used.run(problems[i], {is_dense, thresholds});
    EXPECT_EQ(result.computed, masks[i]) << i;
    EXPECT_EQ(found[i].computed_tiles, masks[i].count());
    const std::vector<ErrorSums> errors = measure_errors({}, result.out.view(), dense[i].view());
    for (std::int64_t head = 0; head < 4; ++head) {
      EXPECT_EQ(errors[head].relative_l1(), found[i].errors[head].relative_l1()) << i;
      if (found[i].thresholds[head] > kDropsNothing && by_head) {
        EXPECT_LE(errors[head].relative_l1(), kTarget) << i;
      }
    }
  }
  EXPECT_LT(masks.back().count(), masks.front().count());
}

TEST(LiteCalibrateTest, TheScheduleDoesWhatCalibrationSaw) {
  for (const Reference reference : {Reference::running, Reference::lse}) {
    for (const Order order : {Order::linear, Order::alternating}) {
      SCOPED_TRACE(std::string(name_of(reference)) + " " + std::string(name_of(order)));
      expect_replay({.reference = reference, .order = order}, true, 1);
    }
    expect_replay({.reference = reference}, false, 3);
  }
  for (const Measure measure : {Measure::largest_mass, Measure::mean_mass}) {
    SCOPED_TRACE(name_of(measure));
    expect_replay({.measure = measure}, true, 1);
  }
}

TEST(LiteCalibrateTest, TheSearchCostsNoMoreThanItMay) {
  const std::vector<Problem> problems = generation(9, 4);
  for (const double most_work : {1.0, 1.5, 3.0}) {
    CalibratedLayer layer(problems[0], {});
    for (const Problem& problem : problems) {
      const CalibratedStep step = layer.run(problem, {.target = 0.05, .most_work = most_work});
      EXPECT_LE(static_cast<double>(step.searched_tiles),
                most_work * static_cast<double>(layer.grid.tiles()));
    }
  }
}

TEST(LiteCalibrateTest, ATargetOfZeroDropsNothing) {
  const std::vector<Problem> problems = generation(3, 2);
  CalibratedLayer layer(problems[0], {});
  layer.run(problems[0], {});
  const CalibratedStep step = layer.run(problems[1], {.target = 0});
  EXPECT_EQ(step.thresholds, std::vector<double>(4, kDropsNothing));
  EXPECT_EQ(layer.mask, TileMask::full(layer.grid));
  for (const ErrorSums& errors : step.errors) EXPECT_EQ(errors.relative_l1(), 0);
}

TEST(LiteCalibrateTest, ProtectedTilesStayAndSkippedOnesAreNeverThere) {
  const Problem problem = geometric({2});
  const TokenRange last[] = {{600, 640}}, second[] = {{64, 128}};
  CalibratedLayer layer(problem, {});
  const CalibrationOptions options{
      .target = 0.5, .most_work = 10, .protected_keys = last, .skipped_keys = second};
  layer.run(problem, options);
  layer.run(problem, options);
  EXPECT_TRUE(layer.mask.test(0, 0, 0, 9));
  EXPECT_FALSE(layer.mask.test(0, 0, 0, 1));
  EXPECT_LT(layer.mask.count(), 9);
}

TEST(LiteCalibrateTest, ErrorsOfKnownTensors) {
  test::Tensor out(DType::f32, {1, 2, 1, 2}), dense(DType::f32, {1, 2, 1, 2}, test::Layout::padded);
  const double out_values[] = {3, 0, 0, 0}, dense_values[] = {3, 4, 0, 0};
  for (int i = 0; i < 4; ++i) {
    out.set(i, out_values[i]);
    dense.set(i, dense_values[i]);
  }
  const std::vector<ErrorSums> errors = measure_errors({}, out.view(), dense.view());
  EXPECT_DOUBLE_EQ(errors[0].relative_l1(), 4.0 / 7);
  EXPECT_DOUBLE_EQ(errors[0].relative_rmse(), 4.0 / 5);
  EXPECT_DOUBLE_EQ(errors[0].cosine(), 9.0 / 15);
  EXPECT_EQ(errors[1].relative_l1(), 0);
  EXPECT_EQ(errors[1].cosine(), 1);
  ErrorSums sums = errors[1];
  EXPECT_EQ(sums += errors[0], errors[0]);
  out.set(2, std::numeric_limits<double>::quiet_NaN());
  EXPECT_TRUE(std::isnan(measure_errors({}, out.view(), dense.view())[1].relative_l1()));
}

TEST(LiteCalibrateTest, TargetsByThirds) {
  const std::vector<double> targets = error_targets(0.075, 0.01, 7);
  const std::vector<double> expected = {0.065, 0.065, 0.065, 0.075, 0.075, 0.085, 0.085};
  for (int i = 0; i < 7; ++i) EXPECT_DOUBLE_EQ(targets[i], expected[i]) << i;
  test::expect_error<InvalidArgument>({"0.1", "0.075"}, [] { error_targets(0.075, 0.1, 7); });
  test::expect_error<InvalidArgument>({"slope"}, [] { error_targets(0.075, -0.1, 7); });
  test::expect_error<InvalidArgument>({"steps is 0"}, [] { error_targets(0.075, 0.01, 0); });
}

// The first tile of each row has its maximum and stays: so all tiles keep their scores, and the
// prediction is exact.
TEST(LiteCalibrateTest, PredictsTheSparsityOfEveryFlatThreshold) {
  const Problem problem = geometric({2, 3});
  CalibratedLayer layer(problem, {});
  std::vector<std::int64_t> skipped(predicted_thresholds().size(), 0);
  for (std::int64_t step = 0; step < 4; ++step) {
    const std::vector<std::int64_t> found =
        observe_step({}, problem.inputs(), {.step = step, .is_dense = step < 2, .scale = 1},
                     layer.view(), layer.out.view());
    for (std::size_t i = 0; i < found.size(); ++i) skipped[i] += found[i];
  }
  for (std::size_t i = 0; i < skipped.size(); ++i) {
    const double threshold = predicted_thresholds()[i];
    Layer used(problem, {});
    std::int64_t computed = 0;
    for (int step = 0; step < 4; ++step) {
      computed += used.run(problem, {step < 2, {threshold}}).computed.count();
    }
    EXPECT_EQ(skipped[i], 4 * layer.grid.tiles() - computed) << threshold;
  }
  const std::int64_t tiles = 4 * layer.grid.tiles();
  const FlatThreshold chosen = choose_threshold(skipped, tiles, 0.2);
  EXPECT_GE(chosen.sparsity, 0.2);
  EXPECT_LE(chosen.sparsity, 0.2 + 2.0 * 2 / 40);
  EXPECT_EQ(choose_threshold(skipped, tiles, 0).threshold, -32);
  test::expect_error<InvalidArgument>({"sparsity is 0.9", "dense steps"},
                                      [&] { choose_threshold(skipped, tiles, 0.9); });
  test::expect_error<InvalidArgument>({"[0, 1)"}, [&] { choose_threshold(skipped, tiles, 1); });
  skipped.pop_back();
  test::expect_error<InvalidArgument>({"counts"}, [&] { choose_threshold(skipped, tiles, 0); });
}

TEST(LiteCalibrateTest, PredictedThresholdsAscend) {
  const std::vector<double>& thresholds = predicted_thresholds();
  EXPECT_EQ(thresholds.front(), -32);
  EXPECT_EQ(thresholds.back(), -0.001);
  for (std::size_t i = 1; i < thresholds.size(); ++i) EXPECT_LT(thresholds[i - 1], thresholds[i]);
}

TEST(LiteCalibrateTest, BadInputIsRefusedBeforeAnythingIsWritten) {
  const Problem problem = geometric({2});
  CalibratedLayer layer(problem, {});
  const auto refuses = [&](const test::MessageParts& message, const CalibrationOptions& options,
                           const CalibrationStateView& state, AttentionInputs inputs) {
    test::expect_error<InvalidArgument>(
        message, [&] { calibrate_step({}, inputs, options, state, layer.out.view()); });
    EXPECT_TRUE(layer.out.is_unwritten());
    EXPECT_TRUE(layer.scores.is_unwritten());
  };
  const AttentionInputs inputs = problem.inputs();
  refuses({"target is -1"}, {.target = -1}, layer.view(), inputs);
  refuses({"target is nan"}, {.target = std::nan("")}, layer.view(), inputs);
  refuses({"most_work is 0.5"}, {.most_work = 0.5}, layer.view(), inputs);
  refuses({"step is -1"}, {.step = -1}, layer.view(), inputs);
  refuses({"mass_budget"}, {.rule = {.mass_budget = 1.0}}, layer.view(), inputs);
  refuses({"the order is strongest", "linear or radial"}, {.rule = {.order = Order::strongest}},
          layer.view(), inputs);
  refuses({"skips_values", "later steps"}, {.rule = {.skips_values = true}}, layer.view(), inputs);
  refuses({"reprobe_period"}, {.rule = {.reprobe_period = 4}}, layer.view(), inputs);
  refuses({"state.ref"}, {.rule = {.reference = Reference::lse}}, layer.view(), inputs);
  CalibrationStateView without_scores = layer.view();
  without_scores.scores = {};
  refuses({"state.scores"}, {}, without_scores, inputs);
  CalibrationStateView with_ref = layer.view();
  with_ref.ref = layer.ref.view();
  refuses({"state.ref"}, {}, with_ref, inputs);
  AttentionInputs with_tiles = inputs;
  with_tiles.tiles = layer.mask.view();
  refuses({"inputs.tiles"}, {}, layer.view(), with_tiles);
  TileGrid other = layer.grid;
  other.k_len += 64;
  const TileMask foreign(other);
  CalibrationStateView of_others = layer.view();
  of_others.mask = foreign.view();
  refuses({"state.scores"}, {}, of_others, inputs);
}

}  // namespace
}  // namespace saccade::lite

#pragma once

#include "support/attention.h"
#include "support/problem.h"

#include <saccade/lite.h>

#include <optional>
#include <vector>

namespace saccade::lite {

// What one step leaves, beside the state. Everything that a rule may ask for is there.
struct StepResult {
  explicit StepResult(const test::Problem& problem)
      : grid(problem.shape.grid()),
        out(problem.q.unwritten()),
        lse(problem.statistics_dtype(), {grid.batch, grid.heads, grid.q_len}, problem.layout),
        scores(DType::f32, {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()}),
        probed_mass(DType::f32, {grid.batch, grid.heads, grid.q_tiles()}),
        fall(DType::f32, {grid.batch, grid.heads, grid.q_tiles()}),
        computed(grid),
        marks(grid) {}

  StepOutputs with_marks() const {
    return {
        .out = out.view(), .lse = lse.view(), .computed = computed.view(), .marks = marks.view()};
  }
  StepOutputs with_scores() const {
    return {.out = out.view(),
            .lse = lse.view(),
            .computed = computed.view(),
            .scores = scores.view(),
            .probed_mass = probed_mass.view(),
            .fall = fall.view()};
  }

  TileGrid grid;
  test::Tensor out, lse, scores, probed_mass, fall;
  TileMask computed, marks;
};

// The state of one layer, as a caller keeps it over the steps of a generation.
class Layer {
 public:
  Layer(const test::Problem& problem, const Rule& rule)
      : grid(problem.shape.grid()),
        mask(TileMask::full(grid)),
        ref(problem.statistics_dtype(), {grid.batch, grid.heads, grid.q_len}),
        spent(DType::f32, {grid.batch, grid.heads, grid.q_tiles()}),
        scores(DType::f32, {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()}),
        rule_(rule) {
    spent.generate([] { return 0.0; });
  }

  StateView view() const {
    return {.mask = mask.view(),
            .ref = rule_.reference == Reference::lse ? ref.view() : TensorView{},
            .spent = rule_.mass_budget ? spent.view() : TensorView{},
            .scores = rule_.order == Order::strongest ? scores.view() : TensorView{}};
  }

  StepResult run(const test::Problem& problem, const StepPlan& plan, StepOptions options = {}) {
    StepResult result(problem);
    step({}, problem.inputs(), complete(options, problem, plan), view(), result.with_scores());
    ++step_;
    return result;
  }

  // The two halves of a partial step.
  StepResult begin(const test::Problem& problem, const StepPlan& plan) const {
    StepResult result(problem);
    step({}, problem.inputs(), complete({.is_partial = true}, problem, plan), view(),
         result.with_scores());
    return result;
  }
  void finish(const test::Problem& problem,
              const StepPlan& plan,
              const test::Tensor& lse,
              const StepResult& result) {
    finish_step({}, problem.inputs(), complete({.is_partial = true}, problem, plan), lse.view(),
                view(), result.with_scores());
    ++step_;
  }

  TileGrid grid;
  TileMask mask;
  test::Tensor ref, spent, scores;

 private:
  StepOptions complete(StepOptions options,
                       const test::Problem& problem,
                       const StepPlan& plan) const {
    options.plan = plan;
    options.rule = rule_;
    options.step = step_;
    options.is_first = step_ == 0;
    options.scale = problem.scale;
    return options;
  }

  Rule rule_;
  std::int64_t step_ = 0;
};

}  // namespace saccade::lite

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
            .probed_mass = probed_mass.view()};
  }

  TileGrid grid;
  test::Tensor out, lse, scores, probed_mass;
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
        rule_(rule) {
    spent.generate([] { return 0.0; });
  }

  StateView view() const {
    return {.mask = mask.view(),
            .ref = rule_.reference == Reference::lse ? ref.view() : TensorView{},
            .spent = rule_.mass_budget ? spent.view() : TensorView{}};
  }

  StepResult run(const test::Problem& problem,
                 const StepPlan& plan,
                 StepOptions options = {},
                 const Context& context = {}) {
    StepResult result(problem);
    options.plan = plan;
    options.rule = rule_;
    options.step = step_;
    options.is_first = step_ == 0;
    options.scale = problem.scale;
    step(context, problem.inputs(), options, view(), result.with_scores());
    ++step_;
    return result;
  }

  TileGrid grid;
  TileMask mask;
  test::Tensor ref, spent;

 private:
  Rule rule_;
  std::int64_t step_ = 0;
};

}  // namespace saccade::lite

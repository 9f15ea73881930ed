#include "support/attention.h"
#include "support/expect_error.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

// What validation rejects: the message names the argument, the limit and the value, nothing has
// been written by then, and all backends agree.

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Device kCuda{DeviceType::cuda, 1};
constexpr Backend kBackends[] = {Backend::reference, Backend::cpu};

Problem small_problem() {
  Random random(1);
  const ProblemShape shape{.batch = 2, .q_heads = 4, .k_heads = 2, .q_len = 20, .k_len = 70};
  Problem problem(shape, DType::f32, random);
  problem.tiles = TileMask::full(shape.grid());
  problem.wants_scores = true;
  problem.threshold = -1.0;
  problem.ref = random_ref(problem, random);
  problem.set_lengths({20, 3}, {70, 5});
  return problem;
}

struct ForwardCall {
  void run(const Context& context) const { attention_forward(context, inputs, options, outputs); }
  bool is_untouched() const {
    std::vector<std::uint64_t> ones(problem.shape.grid().words(), ~std::uint64_t{0});
    return result.out.is_unwritten() && result.lse.is_unwritten() && result.scores.is_unwritten() &&
           std::equal(ones.begin(), ones.end(), result.marks->view().words);
  }
  void visit_strongest_first() {
    options.order = VisitOrder::strongest;
    inputs.priorities = priorities.view();
  }

  Problem problem = small_problem();
  ForwardResult result{problem};
  AttentionInputs inputs = problem.inputs();
  AttentionForwardOptions options = problem.forward_options();
  AttentionForwardOutputs outputs = result.outputs();
  Tensor wrong_lens{DType::i32, {2}};
  Tensor priorities{DType::f32, {2, 4, 1, 2}};
};

const std::vector<Mistake<ForwardCall>> kInputMistakes{
    {[](auto& c) { c.inputs.q = {}; }, {"q is missing"}},
    {[](auto& c) { c.inputs.k = {}; }, {"k is missing"}},
    {[](auto& c) { c.inputs.v = {}; }, {"v is missing"}},
    {[](auto& c) { c.inputs.q.rank = 3; }, {"q has 3 dimensions", "needs 4"}},
    {[](auto& c) { c.inputs.k.rank = 2; }, {"k has 2 dimensions", "needs 4"}},
    {[](auto& c) { c.inputs.q.device = kCuda; }, {"q lies on cuda:1", "copy it to the host"}},
    {[](auto& c) { c.inputs.q.dtype = DType::i32; }, {"q has dtype i32", "f16, bf16, f32 or f64"}},
    {[](auto& c) { c.inputs.q.shape[2] = 0; }, {"q has extent 0 in dimension 2", "at least 1"}},
    {[](auto& c) { c.inputs.q.shape[3] = -1; }, {"q has extent -1 in dimension 3", "at least 1"}},
    {[](auto& c) { c.inputs.k.shape[1] = 0; }, {"k has 0 heads", "at least 1"}},
    {[](auto& c) { c.inputs.k.shape[2] = 0; }, {"and 0 tokens", "at least 1"}},
    {[](auto& c) { c.inputs.k.shape[0] = 3; },
     {"k has shape [3, 2, 70, 16]", "needs [2, 2, 70, 16]"}},
    {[](auto& c) { c.inputs.k.shape[3] = 32; }, {"k has shape [2, 2, 70, 32]", "needs [2, 2, 70"}},
    {[](auto& c) { c.inputs.v.shape[2] = 71; }, {"v has shape [2, 2, 71, 16]", "needs [2, 2, 70"}},
    {[](auto& c) { c.inputs.k.dtype = DType::f16; }, {"k has dtype f16", "needs f32"}},
    {[](auto& c) { c.inputs.v.dtype = DType::bf16; }, {"v has dtype bf16", "needs f32"}},
    {[](auto& c) { c.inputs.k.shape[1] = c.inputs.v.shape[1] = 3; },
     {"q has 4 heads and k has 3", "multiple of k_heads", "nearest legal q_heads is 3"}},
    {[](auto& c) { c.inputs.k.shape[1] = c.inputs.v.shape[1] = 9; },
     {"q has 4 heads and k has 9", "nearest legal q_heads is 9"}},
    {[](auto& c) { c.inputs.q.strides[3] = 2; }, {"q has stride 2 in its last dimension", "1"}},
    {[](auto& c) { c.inputs.k.strides[3] = 0; }, {"k has stride 0 in its last dimension", "1"}},
    {[](auto& c) { c.inputs.v.strides[3] = -1; }, {"v has stride -1 in its last dimension", "1"}},
    {[](auto& c) { c.inputs.tiles = {}, c.options.block_q = 96; },
     {"block_q is 96", "64 or 128", "nearest is 128"}},
    {[](auto& c) { c.inputs.tiles = {}, c.options.block_k = 16; },
     {"block_k is 16", "64 or 128", "nearest is 64"}},
    {[](auto& c) { c.inputs.tiles.grid.block_k = 0; }, {"block_k is 0", "64 or 128"}},
    {[](auto& c) { c.inputs.tiles.grid.k_len = 71; },
     {"tiles belongs to another grid", "k_len 71", "k_len 70"}},
    {[](auto& c) { c.inputs.tiles.grid.heads = 2; }, {"tiles belongs to another", "heads 2"}},
    {[](auto& c) { c.inputs.tiles.device = kCuda; }, {"tiles lies on cuda:1"}},
    {[](auto& c) { c.inputs.q_lens.dtype = DType::f32; }, {"q_lens has dtype f32", "needs i32"}},
    {[](auto& c) { c.inputs.k_lens.shape[0] = 1; }, {"k_lens has shape [1]", "needs [2]"}},
    {[](auto& c) { c.inputs.q_lens = c.wrong_lens.generate([] { return 21.0; }).view(); },
     {"q_lens[0] is 21", "[0, 20]"}},
    {[](auto& c) { c.wrong_lens.set(0, 0), c.inputs.q_lens = c.wrong_lens.view(); },
     {"q_lens[1] is -1", "[0, 20]"}},
    {[](auto& c) { c.inputs.k_lens = c.wrong_lens.generate([] { return 71.0; }).view(); },
     {"k_lens[0] is 71", "[0, 70]"}},
    {[](auto& c) { c.inputs.ref.shape[2] = 19; }, {"ref has shape [2, 4, 19]", "needs [2, 4, 20]"}},
    {[](auto& c) { c.inputs.ref.dtype = DType::f64; }, {"ref has dtype f64", "needs f32"}},
    {[](auto& c) { c.options.scale = kInfinity; }, {"scale is inf", "must be finite"}},
    {[](auto& c) { c.options.scale = NAN; }, {"scale is nan", "must be finite"}},
    {[](auto& c) { c.options.threshold = 0.5; }, {"threshold is 0.5", "at most 0"}},
    {[](auto& c) { c.options.threshold = NAN; }, {"threshold is nan", "at most 0"}},
    {[](auto& c) { c.options.order = static_cast<VisitOrder>(9); }, {"order is 9"}},
    {[](auto& c) { c.options.skips_values = true; },
     {"skips_values is for the largest_weight", "not against ref"}},
    {[](auto& c) {
       c.options.skips_values = true, c.options.measure = Measure::mean_mass;
       c.inputs.ref = {};
     },
     {"skips_values is for the largest_weight", "not for the mean_mass"}},
    {[](auto& c) { c.options.skips_values = true, c.options.threshold = {}; },
     {"skips_values needs a threshold below 0", "none is given"}},
    {[](auto& c) { c.options.skips_values = true, c.options.threshold = 0; },
     {"skips_values needs a threshold below 0", "the largest weight of a row"}},
    {[](auto& c) { c.options.skips_values = true, c.options.panel_rows = -1; },
     {"panel_rows is -1", "at least 1"}},
    {[](auto& c) { c.options.panel_rows = 16; }, {"panel_rows is given without skips_values"}},
    {[](auto& c) { c.options.order = VisitOrder::strongest; },
     {"priorities is missing", "order strongest needs it"}},
    {[](auto& c) { c.inputs.priorities = c.result.scores.view(); },
     {"priorities is given, but the order linear", "visit in the order strongest"}},
    {[](auto& c) { c.visit_strongest_first(), c.inputs.priorities.shape[3] = 3; },
     {"priorities has shape [2, 4, 1, 3]", "needs [2, 4, 1, 2]"}},
    {[](auto& c) { c.visit_strongest_first(), c.inputs.priorities.dtype = DType::f16; },
     {"priorities has dtype f16", "needs f32"}},
    {[](auto& c) { c.visit_strongest_first(), c.inputs.priorities.strides[1] = 4; },
     {"priorities has stride 4 in dimension 1", "densely packed (stride 2)"}},
};

TEST(ValidateForwardTest, RejectsWrongInputs) {
  expect_mistakes(kInputMistakes);
}

TEST(ValidateForwardTest, QueriesThrowWhatTheCallThrows) {
  for (const Mistake<ForwardCall>& mistake : kInputMistakes) {
    for (const Backend backend : kBackends) {
      const Context context{.backend = backend};
      ForwardCall call;
      mistake.make(call);
      expect_mistake(mistake.message, [&] { visit_plan(context, call.inputs, call.options); });
      expect_mistake(mistake.message,
                     [&] { attention_forward_workspace_size(context, call.inputs, call.options); });
    }
  }
}

TEST(ValidateForwardTest, RejectsWrongOutputs) {
  expect_mistakes<ForwardCall>({
      {[](auto& c) { c.outputs.out = {}; }, {"out is missing"}},
      {[](auto& c) { c.outputs.out.rank = 3; }, {"out has 3 dimensions", "needs 4"}},
      {[](auto& c) { c.outputs.out.shape[2] = 21; }, {"out has shape [2, 4, 21, 16]", "20, 16]"}},
      {[](auto& c) { c.outputs.out.dtype = DType::f16; }, {"out has dtype f16", "needs f32"}},
      {[](auto& c) { c.outputs.out.device = kCuda; }, {"out lies on cuda:1"}},
      {[](auto& c) { c.outputs.out.strides[3] = 2; }, {"out has stride 2 in its last", "needs 1"}},
      {[](auto& c) { c.outputs.out.strides[1] = 0; },
       {"out is written", "stride 0 in dimension 1 of extent 4"}},
      {[](auto& c) { c.outputs.lse.shape[1] = 2; }, {"lse has shape [2, 2, 20]", "[2, 4, 20]"}},
      {[](auto& c) { c.outputs.lse.dtype = DType::f64; }, {"lse has dtype f64", "needs f32"}},
      {[](auto& c) { c.outputs.lse.strides[2] = 0; }, {"lse is written", "dimension 2"}},
      {[](auto& c) { c.options.threshold = {}; }, {"marks are asked for without a threshold"}},
      {[](auto& c) { c.outputs.marks = {}; }, {"a threshold is given, but no marks"}},
      {[](auto& c) { c.outputs.marks.grid.q_len = 21; },
       {"marks belongs to another grid", "q_len 21", "q_len 20"}},
      {[](auto& c) { c.outputs.marks.device = kCuda; }, {"marks lies on cuda:1"}},
      {[](auto& c) { c.outputs.scores.shape[3] = 3; },
       {"scores has shape [2, 4, 1, 3]", "needs [2, 4, 1, 2]"}},
      {[](auto& c) { c.outputs.scores.dtype = DType::f16; }, {"scores has dtype f16", "f32"}},
      {[](auto& c) { c.outputs.scores.strides[1] = 4; },
       {"scores has stride 4 in dimension 1", "densely packed (stride 2)"}},
      {[](auto& c) { c.options.threshold = {}, c.outputs.marks = {}, c.outputs.scores = {}; },
       {"ref is given, but neither marks nor scores"}},
      {[](auto& c) { c.options.is_partial = true; },
       {"marks are asked for, but keys that are partial only have scores"}},
      {[](auto& c) {
         c.options.is_partial = true;
         c.inputs.ref = {}, c.options.threshold = {}, c.outputs.marks = {};
       },
       {"is_partial is given without ref"}},
  });
}

struct BackwardCall {
  void run(const Context& context) const { attention_backward(context, inputs, options, outputs); }
  bool is_untouched() const {
    return result.dq.is_unwritten() && result.dk.is_unwritten() && result.dv.is_unwritten();
  }

  Problem problem = small_problem();
  ForwardResult forward = run_forward({.backend = Backend::reference}, problem);
  Gradients result{problem};
  AttentionBackwardInputs inputs = backward_inputs(problem, forward);
  AttentionBackwardOptions options = problem.backward_options();
  AttentionBackwardOutputs outputs = result.outputs();
};

const std::vector<Mistake<BackwardCall>> kBackwardInputMistakes{
    {[](auto& c) { c.inputs.q = {}; }, {"q is missing"}},
    {[](auto& c) { c.inputs.tiles.grid.batch = 1; }, {"tiles belongs to another grid", "batch 1"}},
    {[](auto& c) { c.inputs.tiles = {}, c.options.block_k = 256; }, {"block_k is 256", "is 128"}},
    {[](auto& c) { c.options.scale = -kInfinity; }, {"scale is -inf", "must be finite"}},
    {[](auto& c) { c.inputs.out = {}; }, {"out is missing"}},
    {[](auto& c) { c.inputs.out.dtype = DType::bf16; }, {"out has dtype bf16", "needs f32"}},
    {[](auto& c) { c.inputs.out.strides[3] = 3; }, {"out has stride 3 in its last", "needs 1"}},
    {[](auto& c) { c.inputs.lse = {}; }, {"lse is missing"}},
    {[](auto& c) { c.inputs.lse.shape[0] = 1; }, {"lse has shape [1, 4, 20]", "[2, 4, 20]"}},
    {[](auto& c) { c.inputs.dout = {}; }, {"dout is missing"}},
    {[](auto& c) { c.inputs.dout.shape[3] = 8; }, {"dout has shape [2, 4, 20, 8]", "20, 16]"}},
    {[](auto& c) { c.inputs.dout.strides[3] = 2; }, {"dout has stride 2 in its last", "needs 1"}},
    {[](auto& c) { c.inputs.dlse.dtype = DType::f16; }, {"dlse has dtype f16", "needs f32"}},
    {[](auto& c) { c.inputs.dlse.rank = 2; }, {"dlse has 2 dimensions", "needs 3"}},
};

TEST(ValidateBackwardTest, RejectsWrongInputs) {
  expect_mistakes(kBackwardInputMistakes);
}

TEST(ValidateBackwardTest, TheSizeQueryThrowsWhatTheCallThrows) {
  for (const Mistake<BackwardCall>& mistake : kBackwardInputMistakes) {
    for (const Backend backend : kBackends) {
      BackwardCall call;
      mistake.make(call);
      expect_mistake(mistake.message, [&] {
        attention_backward_workspace_size({.backend = backend}, call.inputs, call.options);
      });
    }
  }
}

TEST(ValidateBackwardTest, RejectsWrongOutputs) {
  expect_mistakes<BackwardCall>({
      {[](auto& c) { c.outputs.dq = {}; }, {"dq is missing"}},
      {[](auto& c) { c.outputs.dk = {}; }, {"dk is missing"}},
      {[](auto& c) { c.outputs.dv = {}; }, {"dv is missing"}},
      {[](auto& c) { c.outputs.dq.shape[2] = 70; }, {"dq has shape [2, 4, 70, 16]", "20, 16]"}},
      {[](auto& c) { c.outputs.dk.shape[1] = 4; }, {"dk has shape [2, 4, 70, 16]", "[2, 2, 70"}},
      {[](auto& c) { c.outputs.dv.dtype = DType::f64; }, {"dv has dtype f64", "needs f32"}},
      {[](auto& c) { c.outputs.dk.strides[3] = 2; }, {"dk has stride 2 in its last", "needs 1"}},
      {[](auto& c) { c.outputs.dv.strides[2] = 0; }, {"dv is written", "stride 0 in dimension 2"}},
      {[](auto& c) { c.outputs.dq.device = kCuda; }, {"dq lies on cuda:1"}},
  });
}

}  // namespace
}  // namespace saccade::test

#include "support/expect_error.h"
#include "support/partials.h"

#include <saccade/update_mask.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

// What validation rejects: the message names the argument, the limit and the value, nothing has
// been written by then, and all backends agree.

namespace saccade::test {
namespace {

constexpr Device kCuda{DeviceType::cuda, 1};

// merge_partials_backward checks all that merge_partials does.
struct MergeCall {
  void run(const Context& context) const {
    if (is_backward) {
      merge_partials_backward(context, partials, merged, dmerged, gradients);
    } else {
      merge_partials(context, partials, merged);
    }
  }
  bool is_untouched() const {
    return std::all_of(results.begin(), results.end(), [](const OwnedPartial& result) {
      return result.out.is_unwritten() && result.lse.is_unwritten();
    });
  }

  static OwnedPartials written(int count) {
    Random random(1);
    OwnedPartials list;
    for (int i = 0; i < count; ++i) {
      list.push_back(random_partial({2, 3, 4, 5}, DType::f32, Layout::bhsd, random));
    }
    return list;
  }
  static OwnedPartials unwritten(int count) {
    return OwnedPartials(count, OwnedPartial({2, 3, 4, 5}, DType::f32, Layout::bhsd));
  }
  static std::vector<Partial> views(const OwnedPartials& list) {
    return {list[0].view(), list[1].view()};
  }

  bool is_backward = false;
  OwnedPartials sources = written(4);
  OwnedPartials results = unwritten(3);
  std::vector<Partial> partials = views(sources);
  Partial merged = results[2].view();
  Partial dmerged = sources[3].view();
  std::vector<Partial> gradients = views(results);
};

struct MergeBackwardCall : MergeCall {
  MergeBackwardCall() {
    is_backward = true;
    merged = sources[2].view();
  }
};

const std::vector<Mistake<MergeCall>> kMergeMistakes{
    {[](auto& c) { c.partials.clear(), c.gradients.clear(); }, {"partials is empty", "at least 1"}},
    {[](auto& c) { c.merged.out = {}; }, {"merged.out is missing"}},
    {[](auto& c) { c.merged.lse = {}; }, {"merged.lse is missing"}},
    {[](auto& c) { c.merged.out.dtype = DType::i32; }, {"merged.out has dtype i32", "f32 or f64"}},
    {[](auto& c) { c.merged.out.device = kCuda; }, {"merged.out lies on cuda:1"}},
    {[](auto& c) { c.merged.out.strides[3] = 2; }, {"merged.out has stride 2", "needs 1"}},
    {[](auto& c) { c.merged.lse.shape[2] = 5; }, {"merged.lse has shape [2, 3, 5]", "[2, 3, 4]"}},
    {[](auto& c) { c.merged.lse.dtype = DType::f64; }, {"merged.lse has dtype f64", "needs f32"}},
    {[](auto& c) { c.partials[1].out.shape[3] = 6; },
     {"partials[1].out has shape [2, 3, 4, 6]", "[2, 3, 4, 5]"}},
    {[](auto& c) { c.partials[0].out.dtype = DType::bf16; },
     {"partials[0].out has dtype bf16", "needs f32"}},
    {[](auto& c) { c.partials[1].out.strides[3] = 2; }, {"partials[1].out has stride 2"}},
    {[](auto& c) { c.partials[1].lse = {}; }, {"partials[1].lse is missing"}},
    {[](auto& c) { c.partials[0].lse.rank = 4; }, {"partials[0].lse has 4 dimensions", "needs 3"}},
};

TEST(ValidateMergeTest, RejectsWrongArguments) {
  expect_mistakes(kMergeMistakes);
  expect_mistakes<MergeCall>({
      {[](auto& c) { c.merged.out.strides[2] = 0; }, {"merged.out is written", "dimension 2"}},
      {[](auto& c) { c.merged.lse.strides[0] = 0; }, {"merged.lse is written", "dimension 0"}},
  });
}

TEST(ValidateMergeTest, BackwardRejectsWrongArguments) {
  std::vector<Mistake<MergeBackwardCall>> mistakes{
      {[](auto& c) { c.dmerged.out = {}; }, {"dmerged.out is missing"}},
      {[](auto& c) { c.dmerged.out.shape[2] = 3; }, {"dmerged.out has shape [2, 3, 3, 5]"}},
      {[](auto& c) { c.dmerged.out.strides[3] = 2; }, {"dmerged.out has stride 2", "needs 1"}},
      {[](auto& c) { c.dmerged.lse.dtype = DType::f16; }, {"dmerged.lse has dtype f16", "f32"}},
      {[](auto& c) { c.gradients.pop_back(); }, {"1 gradients for 2 partials", "must be equal"}},
      {[](auto& c) { c.gradients[1].out = {}; }, {"gradients[1].out is missing"}},
      {[](auto& c) { c.gradients[0].lse.shape[0] = 1; }, {"gradients[0].lse has shape [1, 3, 4]"}},
      {[](auto& c) { c.gradients[1].out.strides[0] = 0; }, {"gradients[1].out is written"}},
      {[](auto& c) { c.gradients[1].lse.strides[1] = 0; }, {"gradients[1].lse is written"}},
  };
  for (const Mistake<MergeCall>& mistake : kMergeMistakes) {
    mistakes.push_back({mistake.make, mistake.message});
  }
  expect_mistakes(mistakes);
}

struct UpdateCall {
  void run(const Context& context) const { update_mask(context, inputs, options, outputs); }
  bool is_untouched() const { return result == TileMask::full(grid); }

  TileGrid grid{1, 2, 300, 400, 128, 64};
  TileMask mask{grid}, computed{grid}, marks{grid};
  TileMask result = TileMask::full(grid);
  Tensor scores = Tensor(DType::f32, {1, 2, 3, 7}).generate([] { return -1.0; });
  Tensor per_row = Tensor(DType::f32, {1, 2, 3});
  std::vector<double> thresholds = {-1, -2, -3};
  std::vector<TokenRange> ranges{{0, 0}};
  UpdateMaskInputs inputs{
      .mask = mask.view(), .computed = computed.view(), .scores = scores.view()};
  UpdateMaskOptions options{
      .threshold = -2.0, .protected_queries = ranges, .protected_keys = ranges};
  UpdateMaskOutputs outputs{.next = result.view()};
};

TEST(ValidateUpdateMaskTest, RejectsWrongArguments) {
  expect_mistakes<UpdateCall>({
      {[](auto& c) { c.outputs.next.words = nullptr; }, {"next is missing"}},
      {[](auto& c) { c.outputs.next.grid.q_len = 0; }, {"q_len is 0", "at least 1"}},
      {[](auto& c) { c.outputs.next.device = kCuda; }, {"next lies on cuda:1"}},
      {[](auto& c) { c.inputs.mask = {}; }, {"mask is missing"}},
      {[](auto& c) { c.inputs.mask.grid.heads = 3; }, {"mask belongs to another", "heads 3"}},
      {[](auto& c) { c.inputs.computed.grid.block_k = 128; },
       {"computed belongs to another grid", "tiles of 128 x 128", "tiles of 128 x 64"}},
      {[](auto& c) { c.inputs.marks = c.marks.view(); }, {"both marks and scores are given"}},
      {[](auto& c) { c.inputs.scores = {}; }, {"neither marks nor scores are given"}},
      {[](auto& c) {
         c.inputs.scores = {}, c.options.threshold = {};
         c.inputs.marks = c.marks.view(), c.inputs.marks.grid.k_len = 401;
       },
       {"marks belongs to another grid", "k_len 401"}},
      {[](auto& c) { c.inputs.scores.shape[3] = 6; },
       {"scores has shape [1, 2, 3, 6]", "needs [1, 2, 3, 7]"}},
      {[](auto& c) { c.inputs.scores.dtype = DType::f64; }, {"scores has dtype f64", "needs f32"}},
      {[](auto& c) { c.inputs.scores.strides[2] = 8; },
       {"scores has stride 8 in dimension 2", "densely packed (stride 7)"}},
      {[](auto& c) { c.options.threshold = {}; }, {"scores are given without a threshold"}},
      {[](auto& c) { c.inputs.scores = {}, c.inputs.marks = c.marks.view(); },
       {"threshold is given without scores"}},
      {[](auto& c) { c.options.threshold = 1e-9; }, {"threshold is 1e-09", "at most 0"}},
      {[](auto& c) { c.options.threshold = {}, c.options.head_thresholds = c.thresholds; },
       {"3 head_thresholds for 2 query heads"}},
      {[](auto& c) { c.options.head_thresholds = c.thresholds; },
       {"both threshold and head_thresholds are given"}},
      {[](auto& c) { c.options.mass_budget = -0.5; }, {"mass_budget is -0.5", "at least 0"}},
      {[](auto& c) { c.options.mass_budget = 1; }, {"mass_budget is given without spent"}},
      {[](auto& c) { c.outputs.spent = c.per_row.view(); },
       {"spent is given without a mass_budget"}},
      {[](auto& c) { c.outputs.probed_mass = c.scores.view(); },
       {"probed_mass has 4 dimensions, but needs 3"}},
      {[](auto& c) {
         c.inputs.scores = {}, c.options.threshold = {}, c.inputs.marks = c.marks.view();
         c.outputs.probed_mass = c.per_row.view();
       },
       {"probed_mass needs scores, but marks are given"}},
      {[](auto& c) { c.options.threshold = NAN; }, {"threshold is nan", "at most 0"}},
      {[](auto& c) {
         c.ranges[0] = {0, 301};
       },
       {"protected_queries holds the range [0, 301)", "0 <= begin <= end <= 300"}},
      {[](auto& c) {
         c.ranges[0] = {-1, 5};
       },
       {"protected_queries", "[-1, 5)"}},
      {[](auto& c) {
         c.ranges[0] = {6, 5};
       },
       {"protected_queries", "[6, 5)"}},
      {[](auto& c) {
         c.options.protected_queries = {}, c.ranges[0] = {400, 401};
       },
       {"protected_keys holds the range [400, 401)", "<= 400"}},
  });
}

}  // namespace
}  // namespace saccade::test

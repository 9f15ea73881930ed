#include "replay/method.h"

#include "host_tensor.h"

#include <map>
#include <string>
#include <utility>

namespace saccade::cli {
namespace {

lite::StepPlan plan_of(const lite::Schedule& schedule, const TraceCall& call) {
  return lite::plan_step(schedule, {.step = call.step,
                                    .sigma = call.sigma,
                                    .layer = call.layer,
                                    .heads = call.q.shape[1],
                                    .length = std::max(call.q.shape[2], call.k.shape[2])});
}

// What LiteAttention keeps of one layer and branch, and room for what a step finds.
struct LayerState {
  LayerState(const TileGrid& grid, const lite::Rule& rule)
      : mask(TileMask::full(grid)), computed(grid), marks(grid) {
    if (rule.reference == lite::Reference::lse) {
      ref.emplace(DType::f32, std::initializer_list{grid.batch, grid.heads, grid.q_len});
    }
    if (rule.mass_budget) {
      spent.emplace(DType::f32, std::initializer_list{grid.batch, grid.heads, grid.q_tiles()});
      spent->fill(std::vector<double>(grid.rows(), 0.0));
    }
    if (rule.order == lite::Order::strongest) {
      scores.emplace(DType::f32,
                     std::initializer_list{grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
    }
  }

  lite::StateView view() const {
    return {.mask = mask.view(),
            .ref = ref ? ref->view() : TensorView{},
            .spent = spent ? spent->view() : TensorView{},
            .scores = scores ? scores->view() : TensorView{}};
  }

  TileMask mask, computed, marks;
  std::optional<HostTensor> ref, spent, scores;
  std::optional<lite::LastCall> last;
};

class LiteMethod : public Method {
 public:
  LiteMethod(const lite::Schedule& schedule,
             const lite::Rule& rule,
             const TileSize& tile,
             std::optional<double> scale)
      : schedule_(schedule), rule_(rule), tile_(tile), scale_(scale) {}

  TileMaskView run(const Context& context,
                   const TraceCall& call,
                   const MethodOutputs& outputs) override {
    const TileGrid grid = grid_of(call, tile_);
    LayerState& state = states_.try_emplace({call.layer, call.branch}, grid, rule_).first->second;
    const lite::StepOptions options{.plan = plan_of(schedule_, call),
                                    .rule = rule_,
                                    .step = call.step,
                                    .is_first = lite::must_reset(state.last, {grid, call.step}),
                                    .scale = scale_,
                                    .protected_queries = schedule_.must_do_queries,
                                    .protected_keys = schedule_.must_do_keys,
                                    .skipped_queries = schedule_.must_skip_queries,
                                    .skipped_keys = schedule_.must_skip_keys};
    lite::StepOutputs found{
        .out = outputs.out, .lse = outputs.lse, .computed = state.computed.view()};
    std::optional<HostTensor> scores;
    if (lite::needs_scores(options)) {
      scores.emplace(DType::f32,
                     std::initializer_list{grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
      found.scores = scores->view();
    } else {
      found.marks = state.marks.view();
    }
    lite::step(context, {.q = call.q, .k = call.k, .v = call.v}, options, state.view(), found);
    state.last = {grid, call.step};
    return state.computed.view();
  }

 private:
  lite::Schedule schedule_;
  lite::Rule rule_;
  TileSize tile_;
  std::optional<double> scale_;
  std::map<std::pair<std::string, std::string>, LayerState> states_;
};

class ChosenMethod : public Method {
 public:
  ChosenMethod(TileChoice choose,
               const lite::Schedule& schedule,
               const TileSize& tile,
               std::optional<double> scale)
      : choose_(std::move(choose)), schedule_(schedule), tile_(tile), scale_(scale) {}

  TileMaskView run(const Context& context,
                   const TraceCall& call,
                   const MethodOutputs& outputs) override {
    const bool is_dense = plan_of(schedule_, call).is_dense;
    tiles_.emplace(is_dense ? TileMask::full(grid_of(call, tile_)) : choose_(context, call));
    AttentionInputs inputs{.q = call.q, .k = call.k, .v = call.v};
    if (!is_dense) inputs.tiles = tiles_->view();
    attention_forward(context, inputs,
                      {.scale = scale_, .block_q = tile_.block_q, .block_k = tile_.block_k},
                      {.out = outputs.out, .lse = outputs.lse});
    return tiles_->view();
  }

 private:
  TileChoice choose_;
  lite::Schedule schedule_;
  TileSize tile_;
  std::optional<double> scale_;
  std::optional<TileMask> tiles_;
};

}  // namespace

TileGrid grid_of(const TraceCall& call, const TileSize& tile) {
  return {.batch = call.q.shape[0],
          .heads = call.q.shape[1],
          .q_len = call.q.shape[2],
          .k_len = call.k.shape[2],
          .block_q = tile.block_q,
          .block_k = tile.block_k};
}

std::unique_ptr<Method> make_lite(const lite::Schedule& schedule,
                                  const lite::Rule& rule,
                                  const TileSize& tile,
                                  std::optional<double> scale) {
  return std::make_unique<LiteMethod>(schedule, rule, tile, scale);
}

std::unique_ptr<Method> make_chosen(TileChoice choose,
                                    const lite::Schedule& schedule,
                                    const TileSize& tile,
                                    std::optional<double> scale) {
  return std::make_unique<ChosenMethod>(std::move(choose), schedule, tile, scale);
}

}  // namespace saccade::cli

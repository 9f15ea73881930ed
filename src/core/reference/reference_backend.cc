#include "core/backend.h"
#include "core/reference/reference.h"

namespace saccade {
namespace {

class ReferenceBackend final : public BackendOps {
 public:
  std::optional<std::string> why_unsupported(const AttentionProblem&) const override {
    return std::nullopt;
  }

  // Panels are whole tiles, as in the paper.
  VisitPlan visit_plan(const AttentionProblem& problem,
                       const AttentionForwardOptions& options) const override {
    return {.order = options.order,
            .group_tiles = 1,
            .panel_rows = options.panel_rows > 0 ? options.panel_rows : problem.grid.block_q};
  }

  std::size_t workspace_size(const ForwardProblem&, int) const override { return 0; }
  void attention_forward(const Execution&, const ForwardProblem& problem) const override {
    reference::attention_forward(problem);
  }

  std::size_t workspace_size(const BackwardProblem&, int) const override { return 0; }
  void attention_backward(const Execution&, const BackwardProblem& problem) const override {
    reference::attention_backward(problem);
  }

  void merge_partials(const Execution&,
                      std::span<const Partial> partials,
                      const Partial& merged) const override {
    reference::merge_partials(partials, merged);
  }
  void merge_partials_backward(const Execution&,
                               std::span<const Partial> partials,
                               const Partial& merged,
                               const Partial& dmerged,
                               std::span<const Partial> gradients) const override {
    reference::merge_partials_backward(partials, merged, dmerged, gradients);
  }

  void computed_tiles(const Execution&,
                      const TileMaskView& mask,
                      const ComputedTilesOptions& options,
                      const TileMaskView& computed) const override {
    reference::computed_tiles(mask, options, computed);
  }
  void update_mask(const Execution&,
                   const UpdateMaskInputs& inputs,
                   const UpdateMaskOptions& options,
                   const UpdateMaskOutputs& outputs) const override {
    reference::update_mask(inputs, options, outputs);
  }

  std::optional<std::string> why_unsupported(const PoolProblem&) const override {
    return std::nullopt;
  }
  void pool_tiles(const Execution&, const PoolProblem& problem) const override {
    reference::pool_tiles(problem);
  }

  std::optional<std::string> why_unsupported(const SelectProblem&) const override {
    return std::nullopt;
  }
  std::size_t workspace_size(const SelectProblem&, int) const override { return 0; }
  void select_tiles(const Execution&, const SelectProblem& problem) const override {
    reference::select_tiles(problem);
  }

  std::size_t workspace_size(const LinearForwardProblem&, int) const override { return 0; }
  void linear_forward(const Execution&, const LinearForwardProblem& problem) const override {
    reference::linear_forward(problem);
  }

  std::size_t workspace_size(const LinearBackwardProblem&, int) const override { return 0; }
  void linear_backward(const Execution&, const LinearBackwardProblem& problem) const override {
    reference::linear_backward(problem);
  }
};

}  // namespace

const BackendOps& reference_backend() {
  static const ReferenceBackend backend;
  return backend;
}

}  // namespace saccade

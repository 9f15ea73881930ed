#include "cpu/cpu_backend.h"

#include "cpu/targets.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <algorithm>

namespace saccade {
namespace {

constexpr std::int64_t kHeadDimStep = 16;
constexpr std::int64_t kMaxHeadDim = 256;

constexpr const char* kNoF64 =
    "the cpu backend takes f16, bf16 and f32, not f64; set SACCADE_BACKEND=reference or use f32";

// Of tensors whose last dimension is head_dim.
std::optional<std::string> why_unsupported_tensor(DType dtype, std::int64_t head_dim) {
  if (dtype == DType::f64) return kNoF64;
  if (head_dim % kHeadDimStep == 0 && head_dim <= kMaxHeadDim) return std::nullopt;
  const std::int64_t below = std::min(head_dim / kHeadDimStep * kHeadDimStep, kMaxHeadDim);
  const std::int64_t above = std::min(below + kHeadDimStep, kMaxHeadDim);
  return fmt::format(
      "the cpu backend takes head_dim in multiples of {} up to {}, not {}; the nearest legal "
      "choice is {}",
      kHeadDimStep, kMaxHeadDim, head_dim,
      below > 0 && head_dim - below < above - head_dim ? below : above);
}

class CpuBackend final : public BackendOps {
 public:
  std::optional<std::string> why_unsupported(const AttentionProblem& problem) const override {
    return why_unsupported_tensor(problem.q.dtype, problem.head_dim);
  }

  // Every tile is its own visit group: those that are fused into one product are judged one after
  // the other.
  VisitPlan visit_plan(const AttentionProblem&,
                       const AttentionForwardOptions& options) const override {
    const int rows = cpu::panel_rows();
    if (options.panel_rows > 0 && options.panel_rows != rows) {
      throw Unsupported(
          fmt::format("the cpu backend takes panels of {} rows on this instruction set, not {}; "
                      "leave panel_rows at 0",
                      rows, options.panel_rows));
    }
    return {.order = options.order, .group_tiles = 1, .panel_rows = rows};
  }

  std::size_t workspace_size(const ForwardProblem& problem, int workers) const override {
    return cpu::workspace_size(problem, workers);
  }
  void attention_forward(const Execution& execution, const ForwardProblem& problem) const override {
    cpu::attention_forward(execution, problem);
  }

  std::size_t workspace_size(const BackwardProblem& problem, int workers) const override {
    return cpu::workspace_size(problem, workers);
  }
  void attention_backward(const Execution& execution,
                          const BackwardProblem& problem) const override {
    cpu::attention_backward(execution, problem);
  }

  void merge_partials(const Execution& execution,
                      std::span<const Partial> partials,
                      const Partial& merged) const override {
    if (merged.out.dtype == DType::f64) throw Unsupported(kNoF64);
    cpu::merge_partials(execution, partials, merged);
  }
  void merge_partials_backward(const Execution& execution,
                               std::span<const Partial> partials,
                               const Partial& merged,
                               const Partial& dmerged,
                               std::span<const Partial> gradients) const override {
    if (merged.out.dtype == DType::f64) throw Unsupported(kNoF64);
    cpu::merge_partials_backward(execution, partials, merged, dmerged, gradients);
  }

  void computed_tiles(const Execution& execution,
                      const TileMaskView& mask,
                      const ComputedTilesOptions& options,
                      const TileMaskView& computed) const override {
    cpu::computed_tiles(execution, mask, options, computed);
  }
  void update_mask(const Execution& execution,
                   const UpdateMaskInputs& inputs,
                   const UpdateMaskOptions& options,
                   const UpdateMaskOutputs& outputs) const override {
    cpu::update_mask(execution, inputs, options, outputs);
  }

  std::optional<std::string> why_unsupported(const PoolProblem& problem) const override {
    return why_unsupported_tensor(problem.x.dtype, problem.x.shape[3]);
  }
  void pool_tiles(const Execution& execution, const PoolProblem& problem) const override {
    cpu::pool_tiles(execution, problem);
  }

  std::optional<std::string> why_unsupported(const SelectProblem& problem) const override {
    return why_unsupported_tensor(problem.q.dtype, problem.head_dim());
  }
  std::size_t workspace_size(const SelectProblem& problem, int workers) const override {
    return cpu::workspace_size(problem, workers);
  }
  void select_tiles(const Execution& execution, const SelectProblem& problem) const override {
    cpu::select_tiles(execution, problem);
  }

  std::size_t workspace_size(const LinearForwardProblem& problem, int workers) const override {
    return cpu::workspace_size(problem, workers);
  }
  void linear_forward(const Execution& execution,
                      const LinearForwardProblem& problem) const override {
    cpu::linear_forward(execution, problem);
  }

  std::size_t workspace_size(const LinearBackwardProblem& problem, int workers) const override {
    return cpu::workspace_size(problem, workers);
  }
  void linear_backward(const Execution& execution,
                       const LinearBackwardProblem& problem) const override {
    cpu::linear_backward(execution, problem);
  }
};

}  // namespace

const BackendOps& cpu_backend() {
  cpu::choose_target();
  static const CpuBackend backend;
  return backend;
}

}  // namespace saccade

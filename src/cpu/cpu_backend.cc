#include "cpu/cpu_backend.h"

#include "cpu/targets.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <algorithm>

namespace saccade {
namespace {

constexpr int kHeadDimStep = 16;
constexpr int kMaxHeadDim = 256;

constexpr const char* kNoF64 =
    "the cpu backend takes f16, bf16 and f32, not f64; set SACCADE_BACKEND=reference or use f32";

class CpuBackend final : public BackendOps {
 public:
  std::optional<std::string> why_unsupported(const AttentionProblem& problem) const override {
    if (problem.q.dtype == DType::f64) return kNoF64;
    const int head_dim = problem.head_dim;
    if (head_dim % kHeadDimStep == 0 && head_dim <= kMaxHeadDim) return std::nullopt;
    const int below = std::min(head_dim / kHeadDimStep * kHeadDimStep, kMaxHeadDim);
    const int above = std::min(below + kHeadDimStep, kMaxHeadDim);
    return fmt::format(
        "the cpu backend takes head_dim in multiples of {} up to {}, not {}; the nearest legal "
        "choice is {}",
        kHeadDimStep, kMaxHeadDim, head_dim,
        below > 0 && head_dim - below < above - head_dim ? below : above);
  }

  // Tiles are never fused into one product, so every tile is its own visit group.
  VisitPlan visit_plan(const AttentionProblem&, VisitOrder order) const override {
    return {.order = order, .group_tiles = 1};
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

  void update_mask(const Execution& execution,
                   const UpdateMaskInputs& inputs,
                   const UpdateMaskOptions& options,
                   const TileMaskView& next) const override {
    cpu::update_mask(execution, inputs, options, next);
  }
};

}  // namespace

const BackendOps& cpu_backend() {
  cpu::choose_target();
  static const CpuBackend backend;
  return backend;
}

}  // namespace saccade

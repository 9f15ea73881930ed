#include "ops.h"

#include <saccade/error.h>

#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>

// The library `saccade` of torch operators, on the LibTorch stable ABI: one binary for every Python
// and every torch since 2.10. Fake kernels and autograd formulas are registered from Python.

namespace {

using BoxedKernel = void (*)(StableIValue* stack,
                             std::uint64_t num_args,
                             std::uint64_t num_outputs);

// torch turns every foreign C++ exception into a RuntimeError and keeps nothing but its message, so
// the class travels there. saccade/errors.py reads it.
template <BoxedKernel kernel>
void naming_errors(StableIValue* stack, std::uint64_t num_args, std::uint64_t num_outputs) {
  using namespace std::string_literals;
  try {
    kernel(stack, num_args, num_outputs);
  } catch (const saccade::InvalidArgument& error) {
    throw std::runtime_error("saccade.InvalidArgument: "s + error.what());
  } catch (const saccade::Unsupported& error) {
    throw std::runtime_error("saccade.Unsupported: "s + error.what());
  } catch (const saccade::FileError& error) {
    throw std::runtime_error("saccade.FileError: "s + error.what());
  }
}

}  // namespace

#define SACCADE_OP(function) naming_errors<TORCH_BOX(&saccade::python::function)>

STABLE_TORCH_LIBRARY(saccade, library) {
  library.def(
      "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? tiles=None, Tensor? q_lens=None, "
      "Tensor? k_lens=None, float? scale=None, int block_q=128, int block_k=64) "
      "-> (Tensor out, Tensor lse)");
  library.def(
      "attention_backward(Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor dout, "
      "Tensor? dlse=None, Tensor? tiles=None, Tensor? q_lens=None, Tensor? k_lens=None, "
      "float? scale=None, int block_q=128, int block_k=64) -> (Tensor dq, Tensor dk, Tensor dv)");
  library.def("merge_partials(Tensor[] outs, Tensor[] lses) -> (Tensor out, Tensor lse)");
  library.def(
      "merge_partials_backward(Tensor[] outs, Tensor[] lses, Tensor out, Tensor lse, Tensor dout, "
      "Tensor? dlse=None) -> (Tensor[] douts, Tensor[] dlses)");
  library.def("pool_tiles(Tensor x, Tensor? lens=None, int block=64) -> Tensor");
  library.def(
      "select_tiles(Tensor q_means, Tensor k_means, int q_len, int k_len, int block_q=64, "
      "int block_k=64, Tensor? q_lens=None, Tensor? k_lens=None, Tensor? always=None, "
      "float? scale=None, float critical_ratio=0.05, int critical_count=-1, "
      "float critical_mass=0.0, float negligible_ratio=0.10, int negligible_count=-1) "
      "-> (Tensor critical, Tensor marginal)");
  library.def(
      "random_tiles(int[] grid, float sparsity, int seed, int[] protected_queries, "
      "int[] protected_keys) -> Tensor");
  library.def(
      "radial_tiles(int[] grid, int[] video, float decay, int window, int sink_frames, "
      "int[] protected_queries, int[] protected_keys) -> Tensor");
  library.def(
      "spatial_tiles(int[] grid, int[] video, float ratio, int count, int sink_frames, "
      "int[] protected_queries, int[] protected_keys) -> Tensor");
  library.def(
      "temporal_tiles(int[] grid, int[] video, float ratio, int count, int sink_frames, "
      "int[] protected_queries, int[] protected_keys) -> Tensor");
  library.def(
      "svg_tiles(Tensor q, Tensor k, Tensor v, Tensor spatial, Tensor temporal, float? scale, "
      "int block_q, int block_k, int sampled_tiles, int rows_per_tile, int seed) -> Tensor");
  library.def(
      "pooled_tiles(Tensor q, Tensor k, Tensor? q_lens, Tensor? k_lens, float? scale, "
      "int block_q, int block_k, float ratio, int count, float mass, int[] protected_queries, "
      "int[] protected_keys) -> Tensor");
  library.def(
      "linear_forward(Tensor q, Tensor k, Tensor v, Tensor? tiles=None, Tensor? q_lens=None, "
      "Tensor? k_lens=None, Tensor? q_weight=None, Tensor? k_weight=None, "
      "str feature_map=\"softmax\", float epsilon=0.0, int block_q=64, int block_k=64) "
      "-> Tensor");
  library.def(
      "linear_backward(Tensor q, Tensor k, Tensor v, Tensor out, Tensor dout, "
      "Tensor? tiles=None, Tensor? q_lens=None, Tensor? k_lens=None, Tensor? q_weight=None, "
      "Tensor? k_weight=None, str feature_map=\"softmax\", float epsilon=0.0, int block_q=64, "
      "int block_k=64) -> (Tensor dq, Tensor dk, Tensor dv, Tensor dq_weight, Tensor dk_weight)");
  library.def(
      "sparse_linear_forward(Tensor q, Tensor k, Tensor v, Tensor critical, "
      "Tensor? marginal=None, Tensor? q_lens=None, Tensor? k_lens=None, Tensor? q_weight=None, "
      "Tensor? k_weight=None, float? scale=None, str feature_map=\"softmax\", "
      "float epsilon=0.0, int block_q=64, int block_k=64) "
      "-> (Tensor out, Tensor lse, Tensor linear_out)");
  library.def(
      "sparse_linear_backward(Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, "
      "Tensor linear_out, Tensor dout, Tensor? dlse, Tensor dlinear_out, Tensor critical, "
      "Tensor? marginal=None, Tensor? q_lens=None, Tensor? k_lens=None, Tensor? q_weight=None, "
      "Tensor? k_weight=None, float? scale=None, str feature_map=\"softmax\", "
      "float epsilon=0.0, int block_q=64, int block_k=64) "
      "-> (Tensor dq, Tensor dk, Tensor dv, Tensor dq_weight, Tensor dk_weight)");
  library.def(
      "lite_step(Tensor q, Tensor k, Tensor v, Tensor(a!) mask, Tensor(b!)? ref, "
      "Tensor(c!)? spent, Tensor(d!)? last_scores, Tensor? q_lens, Tensor? k_lens, float? scale, "
      "int block_q, int block_k, int step, bool is_first, bool is_partial, bool is_dense, "
      "float[] thresholds, "
      "int measure, int reference, int order, float? mass_budget, int reprobe_period, "
      "bool skips_values, int[] protected_queries, int[] protected_keys, int[] skipped_queries, "
      "int[] skipped_keys) "
      "-> (Tensor out, Tensor lse, Tensor active, Tensor probed_mass, Tensor computed, "
      "Tensor scores)");
  library.def(
      "lite_finish_step(Tensor lse, Tensor(a!) mask, Tensor(b!) ref, Tensor(c!)? spent, "
      "Tensor computed, Tensor scores, Tensor? q_lens, Tensor? k_lens, int[] grid, bool is_first, "
      "bool is_probing, float[] thresholds, float? mass_budget, int[] protected_queries, "
      "int[] protected_keys) -> Tensor");
  library.def("lite_error_targets(float level, float slope, int steps) -> float[]");
  library.def("lite_measure_errors(Tensor out, Tensor dense) -> Tensor");
  library.def("lite_errors(Tensor sums) -> Tensor");
  library.def(
      "lite_calibrate_step(Tensor q, Tensor k, Tensor v, Tensor(a!) mask, Tensor(b!) scores, "
      "Tensor(c!) shares, Tensor(d!)? ref, int block_q, int block_k, int step, bool is_dense, "
      "int measure, int reference, int order, float target, bool by_head, float most_work, "
      "int[] protected_queries, int[] protected_keys, int[] skipped_queries, int[] skipped_keys) "
      "-> (Tensor out, float[] thresholds, Tensor errors, int computed, int searched)");
  library.def(
      "lite_observe_step(Tensor q, Tensor k, Tensor v, Tensor(a!) mask, Tensor(b!) scores, "
      "Tensor(c!) shares, Tensor(d!)? ref, int block_q, int block_k, int step, bool is_dense, "
      "int measure, int reference, int order, "
      "int[] protected_queries, int[] protected_keys, int[] skipped_queries, int[] skipped_keys) "
      "-> (Tensor out, int[] skipped)");
  library.def(
      "lite_choose_threshold(int[] skipped, int tiles, float sparsity) "
      "-> (float threshold, float predicted)");
  library.def(
      "lite_check_rule(int measure, int reference, int order, float? mass_budget, "
      "int reprobe_period, bool skips_values) -> ()");
  library.def("lite_schedule_json(Tensor schedule) -> str");
  library.def(
      "lite_plan_step(Tensor schedule, int step, float? sigma, str layer, int heads, int length) "
      "-> (bool is_dense, float[] thresholds)");
  library.def(
      "lite_schedule_table(Tensor schedule, Tensor layers, float[] sigmas, int num_steps, "
      "int heads, int length) -> str");
  library.def("lite_dense_layers(Tensor schedule, Tensor layers) -> str");
  library.def("lite_require_match(Tensor schedule, Tensor other) -> ()");
  library.def("lite_step_number(float[] timesteps) -> int");
  library.def("lite_must_reset(int[] last_grid, int last_step, int[] grid, int step) -> bool");
  library.def("write_trace(Tensor path, Tensor recording, Tensor[] tensors) -> ()");
  library.def("info() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(saccade, CPU, library) {
  library.impl("attention_forward", SACCADE_OP(attention_forward));
  library.impl("attention_backward", SACCADE_OP(attention_backward));
  library.impl("merge_partials", SACCADE_OP(merge_partials));
  library.impl("merge_partials_backward", SACCADE_OP(merge_partials_backward));
  library.impl("pool_tiles", SACCADE_OP(pool_tiles));
  library.impl("select_tiles", SACCADE_OP(select_tiles));
  library.impl("svg_tiles", SACCADE_OP(svg_tiles));
  library.impl("pooled_tiles", SACCADE_OP(pooled_tiles));
  library.impl("linear_forward", SACCADE_OP(linear_forward));
  library.impl("linear_backward", SACCADE_OP(linear_backward));
  library.impl("sparse_linear_forward", SACCADE_OP(sparse_linear_forward));
  library.impl("sparse_linear_backward", SACCADE_OP(sparse_linear_backward));
  library.impl("lite_step", SACCADE_OP(lite_step));
  library.impl("lite_finish_step", SACCADE_OP(lite_finish_step));
  library.impl("lite_measure_errors", SACCADE_OP(lite_measure_errors));
  library.impl("lite_errors", SACCADE_OP(lite_errors));
  library.impl("lite_calibrate_step", SACCADE_OP(lite_calibrate_step));
  library.impl("lite_observe_step", SACCADE_OP(lite_observe_step));
  library.impl("lite_schedule_json", SACCADE_OP(lite_schedule_json));
  library.impl("lite_plan_step", SACCADE_OP(lite_plan_step));
  library.impl("lite_schedule_table", SACCADE_OP(lite_schedule_table));
  library.impl("lite_dense_layers", SACCADE_OP(lite_dense_layers));
  library.impl("lite_require_match", SACCADE_OP(lite_require_match));
  library.impl("write_trace", SACCADE_OP(write_trace));
}

// Operators without tensors have no device to be dispatched by.
STABLE_TORCH_LIBRARY_IMPL(saccade, CompositeExplicitAutograd, library) {
  library.impl("random_tiles", SACCADE_OP(random_tiles));
  library.impl("radial_tiles", SACCADE_OP(radial_tiles));
  library.impl("spatial_tiles", SACCADE_OP(spatial_tiles));
  library.impl("temporal_tiles", SACCADE_OP(temporal_tiles));
  library.impl("lite_error_targets", SACCADE_OP(lite_error_targets));
  library.impl("lite_choose_threshold", SACCADE_OP(lite_choose_threshold));
  library.impl("lite_check_rule", SACCADE_OP(lite_check_rule));
  library.impl("lite_step_number", SACCADE_OP(lite_step_number));
  library.impl("lite_must_reset", SACCADE_OP(lite_must_reset));
  library.impl("info", SACCADE_OP(info));
}

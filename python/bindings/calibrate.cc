#include "arguments.h"
#include "ops.h"
#include "tensor_views.h"
#include "torch_executor.h"

#include <saccade/calibrate.h>
#include <saccade/error.h>

#include <fmt/format.h>
#include <torch/csrc/stable/ops.h>

#include <cstring>

namespace saccade::python {
namespace {

constexpr std::int64_t kSums = sizeof(lite::ErrorSums) / sizeof(double);
constexpr std::int64_t kErrors = 3;

Tensor empty_doubles(std::int64_t rows, std::int64_t columns) {
  const std::int64_t shape[] = {rows, columns};
  return torch::stable::empty({shape, 2}, torch::headeronly::ScalarType::Double);
}

Tensor tensor_of(const std::vector<lite::ErrorSums>& sums) {
  Tensor tensor = empty_doubles(static_cast<std::int64_t>(sums.size()), kSums);
  std::memcpy(tensor.mutable_data_ptr(), sums.data(), sums.size() * sizeof(lite::ErrorSums));
  return tensor;
}

// A step of the dense trajectory: views of an operator's arguments.
struct DenseStep {
  DenseStep(const Tensor& q,
            const Tensor& k,
            const Tensor& v,
            const Tensor& mask,
            const Tensor& scores,
            const Tensor& shares,
            const std::optional<Tensor>& ref,
            std::int64_t block_q,
            std::int64_t block_k,
            std::int64_t step,
            bool is_dense,
            std::int64_t measure,
            std::int64_t reference,
            std::int64_t order)
      : inputs{.q = view_of(q, "q"), .k = view_of(k, "k"), .v = view_of(v, "v")},
        state{.mask = mask_of(mask, grid_of(inputs.q, inputs.k, block_q, block_k)),
              .scores = view_of(scores, "scores"),
              .ref = view_of(ref, "ref"),
              .shares = view_of(shares, "shares")},
        options{.rule = rule_from(measure, reference, order, std::nullopt, 0, false),
                .step = step,
                .is_dense = is_dense},
        out(torch::stable::empty_like(q)) {
    context.executor = &executor;
  }

  AttentionInputs inputs;
  lite::CalibrationStateView state;
  lite::CalibrationOptions options;
  Tensor out;
  TorchExecutor executor;
  Context context;
};

// Options that point into them.
struct Ranges {
  Ranges(const std::vector<std::int64_t>& protected_queries,
         const std::vector<std::int64_t>& protected_keys,
         const std::vector<std::int64_t>& skipped_queries,
         const std::vector<std::int64_t>& skipped_keys)
      : must_do_queries(ranges_from(protected_queries, "protected_queries")),
        must_do_keys(ranges_from(protected_keys, "protected_keys")),
        must_skip_queries(ranges_from(skipped_queries, "skipped_queries")),
        must_skip_keys(ranges_from(skipped_keys, "skipped_keys")) {}

  void set(lite::CalibrationOptions& options) const {
    options.protected_queries = must_do_queries;
    options.protected_keys = must_do_keys;
    options.skipped_queries = must_skip_queries;
    options.skipped_keys = must_skip_keys;
  }

  std::vector<TokenRange> must_do_queries, must_do_keys, must_skip_queries, must_skip_keys;
};

}  // namespace

std::vector<double> lite_error_targets(double level, double slope, std::int64_t steps) {
  return lite::error_targets(level, slope, steps);
}

Tensor lite_measure_errors(const Tensor& out, const Tensor& dense) {
  TorchExecutor executor;
  return tensor_of(
      lite::measure_errors({.executor = &executor}, view_of(out, "out"), view_of(dense, "dense")));
}

Tensor lite_errors(const Tensor& sums) {
  const TensorView view = view_of(sums, "sums");
  if (view.rank != 2 || view.shape[1] != kSums || view.dtype != DType::f64 ||
      !sums.is_contiguous()) {
    throw InvalidArgument(fmt::format("sums must be contiguous f64 [any, {}]", kSums));
  }
  Tensor errors = empty_doubles(view.shape[0], kErrors);
  auto* to = static_cast<double*>(errors.mutable_data_ptr());
  for (std::int64_t row = 0; row < view.shape[0]; ++row) {
    lite::ErrorSums one;
    std::memcpy(&one, static_cast<const double*>(view.data) + row * kSums, sizeof one);
    *to++ = one.relative_l1();
    *to++ = one.relative_rmse();
    *to++ = one.cosine();
  }
  return errors;
}

std::tuple<Tensor, std::vector<double>, Tensor, std::int64_t, std::int64_t> lite_calibrate_step(
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const Tensor& mask,
    const Tensor& scores,
    const Tensor& shares,
    const std::optional<Tensor>& ref,
    std::int64_t block_q,
    std::int64_t block_k,
    std::int64_t step,
    bool is_dense,
    std::int64_t measure,
    std::int64_t reference,
    std::int64_t order,
    double target,
    bool by_head,
    double most_work,
    const std::vector<std::int64_t>& protected_queries,
    const std::vector<std::int64_t>& protected_keys,
    const std::vector<std::int64_t>& skipped_queries,
    const std::vector<std::int64_t>& skipped_keys) {
  DenseStep call(q, k, v, mask, scores, shares, ref, block_q, block_k, step, is_dense, measure,
                 reference, order);
  const Ranges ranges(protected_queries, protected_keys, skipped_queries, skipped_keys);
  ranges.set(call.options);
  call.options.target = target;
  call.options.by_head = by_head;
  call.options.most_work = most_work;
  const lite::CalibratedStep found = lite::calibrate_step(call.context, call.inputs, call.options,
                                                          call.state, view_of(call.out, "out"));
  return {call.out, found.thresholds, tensor_of(found.errors), found.computed_tiles,
          found.searched_tiles};
}

std::tuple<Tensor, std::vector<std::int64_t>> lite_observe_step(
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const Tensor& mask,
    const Tensor& scores,
    const Tensor& shares,
    const std::optional<Tensor>& ref,
    std::int64_t block_q,
    std::int64_t block_k,
    std::int64_t step,
    bool is_dense,
    std::int64_t measure,
    std::int64_t reference,
    std::int64_t order,
    const std::vector<std::int64_t>& protected_queries,
    const std::vector<std::int64_t>& protected_keys,
    const std::vector<std::int64_t>& skipped_queries,
    const std::vector<std::int64_t>& skipped_keys) {
  DenseStep call(q, k, v, mask, scores, shares, ref, block_q, block_k, step, is_dense, measure,
                 reference, order);
  const Ranges ranges(protected_queries, protected_keys, skipped_queries, skipped_keys);
  ranges.set(call.options);
  std::vector<std::int64_t> skipped = lite::observe_step(call.context, call.inputs, call.options,
                                                         call.state, view_of(call.out, "out"));
  return {call.out, std::move(skipped)};
}

std::tuple<double, double> lite_choose_threshold(const std::vector<std::int64_t>& skipped,
                                                 std::int64_t tiles,
                                                 double sparsity) {
  const lite::FlatThreshold chosen = lite::choose_threshold(skipped, tiles, sparsity);
  return {chosen.threshold, chosen.sparsity};
}

}  // namespace saccade::python

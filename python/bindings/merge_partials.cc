#include "ops.h"
#include "tensor_views.h"
#include "torch_executor.h"

#include <saccade/error.h>
#include <saccade/merge_partials.h>

#include <fmt/format.h>
#include <torch/csrc/stable/ops.h>

namespace saccade::python {
namespace {

Partial partial_of(const Tensor& out, const Tensor& lse) {
  return {.out = view_of(out, "out"), .lse = view_of(lse, "lse")};
}

std::vector<Partial> partials_of(const std::vector<Tensor>& outs, const std::vector<Tensor>& lses) {
  if (outs.size() != lses.size()) {
    throw InvalidArgument(fmt::format(
        "each partial needs an out and an lse, got {} outs and {} lses", outs.size(), lses.size()));
  }
  std::vector<Partial> partials;
  partials.reserve(outs.size());
  for (std::size_t i = 0; i < outs.size(); ++i) partials.push_back(partial_of(outs[i], lses[i]));
  return partials;
}

std::vector<Tensor> empty_like(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> result;
  result.reserve(tensors.size());
  for (const Tensor& tensor : tensors) result.push_back(torch::stable::empty_like(tensor));
  return result;
}

}  // namespace

std::tuple<Tensor, Tensor> merge_partials(const std::vector<Tensor>& outs,
                                          const std::vector<Tensor>& lses) {
  const std::vector<Partial> partials = partials_of(outs, lses);
  TorchExecutor executor;
  const Context context{.executor = &executor, .workspace = {}, .backend = {}};
  Tensor out = torch::stable::empty_like(outs.at(0));
  Tensor lse = torch::stable::empty_like(lses.at(0));
  saccade::merge_partials(context, partials, partial_of(out, lse));
  return {out, lse};
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> merge_partials_backward(
    const std::vector<Tensor>& outs,
    const std::vector<Tensor>& lses,
    const Tensor& out,
    const Tensor& lse,
    const Tensor& dout,
    const std::optional<Tensor>& dlse) {
  const std::vector<Partial> partials = partials_of(outs, lses);
  const Partial dmerged{.out = view_of(dout, "dout"), .lse = view_of(dlse, "dlse")};
  TorchExecutor executor;
  const Context context{.executor = &executor, .workspace = {}, .backend = {}};
  std::vector<Tensor> douts = empty_like(outs);
  std::vector<Tensor> dlses = empty_like(lses);
  saccade::merge_partials_backward(context, partials, partial_of(out, lse), dmerged,
                                   partials_of(douts, dlses));
  return {douts, dlses};
}

}  // namespace saccade::python

#include "check/attention_runner.h"

namespace saccade::cli {
namespace {

HostTensor filled(HostTensor tensor, std::span<const double> values) {
  if (!values.empty()) tensor.fill(values);
  return tensor;
}

}  // namespace

AttentionRunner::AttentionRunner(const Problem& problem,
                                 const ProblemData& data,
                                 Backend backend,
                                 DType dtype)
    : problem_(problem),
      data_(data),
      context_{.backend = backend},
      dtype_(dtype),
      q_(queries_like(data.q)),
      k_(keys_like(data.k)),
      v_(keys_like(data.v)) {}

HostTensor AttentionRunner::queries_like(std::span<const double> values) const {
  const TileGrid& grid = problem_.grid;
  return filled(
      HostTensor(dtype_, {grid.batch, grid.heads, grid.q_len, problem_.head_dim}, problem_.layout),
      values);
}

HostTensor AttentionRunner::keys_like(std::span<const double> values) const {
  const TileGrid& grid = problem_.grid;
  return filled(HostTensor(dtype_, {grid.batch, problem_.k_heads, grid.k_len, problem_.head_dim},
                           problem_.layout),
                values);
}

HostTensor AttentionRunner::statistics_like(std::span<const double> values) const {
  const TileGrid& grid = problem_.grid;
  return filled(HostTensor(dtype_ == DType::f64 ? DType::f64 : DType::f32,
                           {grid.batch, grid.heads, grid.q_len}),
                values);
}

ForwardResult AttentionRunner::forward(std::span<const double> ref, Measure measure) const {
  const TileGrid& grid = problem_.grid;
  HostTensor out = queries_like({});
  HostTensor lse = statistics_like({});
  const HostTensor reference = statistics_like(ref);
  HostTensor scores(DType::f32, {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
  TileMask marks = TileMask::full(grid);
  AttentionInputs inputs = this->inputs();
  if (!ref.empty()) inputs.ref = reference.view();
  attention_forward(
      context_, inputs,
      {.scale = problem_.scale,
       .threshold = problem_.threshold,
       .measure = measure,
       .order = problem_.order,
       .block_q = grid.block_q,
       .block_k = grid.block_k},
      {.out = out.view(), .lse = lse.view(), .marks = marks.view(), .scores = scores.view()});
  return {out.values(), lse.values(), scores.values(), std::move(marks)};
}

ForwardResult AttentionRunner::forward_skipping_values(double threshold, int panel_rows) const {
  const TileGrid& grid = problem_.grid;
  HostTensor out = queries_like({});
  HostTensor lse = statistics_like({});
  attention_forward(context_, inputs(),
                    {.scale = problem_.scale,
                     .threshold = threshold,
                     .order = problem_.order,
                     .skips_values = true,
                     .panel_rows = panel_rows,
                     .block_q = grid.block_q,
                     .block_k = grid.block_k},
                    {.out = out.view(), .lse = lse.view()});
  return {out.values(), lse.values(), {}, TileMask(grid)};
}

int AttentionRunner::panel_rows() const {
  return visit_plan(context_, inputs(),
                    {.order = problem_.order,
                     .block_q = problem_.grid.block_q,
                     .block_k = problem_.grid.block_k})
      .panel_rows;
}

AttentionInputs AttentionRunner::inputs() const {
  return {.q = q_.view(),
          .k = k_.view(),
          .v = v_.view(),
          .tiles = data_.tiles ? data_.tiles->view() : TileMaskView{},
          .q_lens = lens_view(data_.q_lens),
          .k_lens = lens_view(data_.k_lens),
          .ref = {},
          .priorities = priorities_view()};
}

TensorView AttentionRunner::priorities_view() const {
  if (problem_.order != VisitOrder::strongest) return {};
  const TileGrid& grid = problem_.grid;
  return TensorView::contiguous(data_.priorities.data(), DType::f32,
                                {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
}

BackwardResult AttentionRunner::backward(std::span<const double> out,
                                         std::span<const double> lse,
                                         std::span<const double> dout,
                                         std::span<const double> dlse) const {
  const HostTensor out_tensor = queries_like(out);
  const HostTensor lse_tensor = statistics_like(lse);
  const HostTensor dout_tensor = queries_like(dout);
  const HostTensor dlse_tensor = statistics_like(dlse);
  HostTensor dq = queries_like({});
  HostTensor dk = keys_like({});
  HostTensor dv = keys_like({});
  attention_backward(
      context_,
      {.q = q_.view(),
       .k = k_.view(),
       .v = v_.view(),
       .tiles = data_.tiles ? data_.tiles->view() : TileMaskView{},
       .q_lens = lens_view(data_.q_lens),
       .k_lens = lens_view(data_.k_lens),
       .out = out_tensor.view(),
       .lse = lse_tensor.view(),
       .dout = dout_tensor.view(),
       .dlse = dlse_tensor.view()},
      {.scale = problem_.scale, .block_q = problem_.grid.block_q, .block_k = problem_.grid.block_k},
      {.dq = dq.view(), .dk = dk.view(), .dv = dv.view()});
  return {dq.values(), dk.values(), dv.values()};
}

}  // namespace saccade::cli

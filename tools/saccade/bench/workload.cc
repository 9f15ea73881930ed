#include "bench/workload.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace saccade::cli {
namespace {

// The paper's default is of this size; what it marks does not change the time.
constexpr double kThreshold = -8;

HostTensor fill_randomly(HostTensor tensor, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<double> values(tensor.view().element_count());
  for (double& value : values) value = normal(engine);
  tensor.fill(values);
  return tensor;
}

// Exactly as many active tiles as asked for, each choice of them equally likely.
TileMask random_tiles(const TileGrid& grid, double sparsity) {
  std::mt19937 engine;
  const auto exact = (1 - sparsity) * static_cast<double>(grid.tiles());
  std::int64_t wanted = std::max<std::int64_t>(1, std::llround(exact));
  std::vector<std::uint8_t> active(grid.tiles());
  for (std::int64_t tile = 0; tile < grid.tiles(); ++tile) {
    std::uniform_int_distribution<std::int64_t> position(1, grid.tiles() - tile);
    active[tile] = position(engine) <= wanted;
    wanted -= active[tile];
  }
  return TileMask::from_dense(grid, active);
}

}  // namespace

std::string_view name_of(Pass pass) {
  return pass == Pass::forward ? "forward" : "backward";
}

Operands::Operands(DType element_type, const TileGrid& tile_grid, int row_size)
    : dtype(element_type),
      grid(tile_grid),
      head_dim(row_size),
      q(fill_randomly(make_tensor(grid.q_len), 1)),
      k(fill_randomly(make_tensor(grid.k_len), 2)),
      v(fill_randomly(make_tensor(grid.k_len), 3)),
      dout(fill_randomly(make_tensor(grid.q_len), 4)),
      dq(make_tensor(grid.q_len)),
      dk(make_tensor(grid.k_len)),
      dv(make_tensor(grid.k_len)) {}

HostTensor Operands::make_tensor(std::int64_t length) const {
  return HostTensor(dtype, {grid.batch, grid.heads, length, head_dim});
}

Workload::Workload(const Context& context, const Operands& operands, std::optional<double> sparsity)
    : operands_(operands),
      out_(operands.make_tensor(operands.grid.q_len)),
      lse_(DType::f32, {operands.grid.batch, operands.grid.heads, operands.grid.q_len}),
      marks_(operands.grid),
      context_(context) {
  if (sparsity) tiles_ = random_tiles(operands.grid, *sparsity);
}

std::optional<double> Workload::sparsity() const {
  return tiles_ ? std::optional(tiles_->sparsity()) : std::nullopt;
}

double Workload::flops(Pass pass) const {
  const TileGrid& grid = operands_.grid;
  const double logits = static_cast<double>(grid.batch * grid.heads) *
                        static_cast<double>(grid.q_len) * static_cast<double>(grid.k_len);
  const double active = 1 - sparsity().value_or(0);
  return (pass == Pass::forward ? 4 : 10) * active * logits * operands_.head_dim;
}

void Workload::run(Pass pass) const {
  if (pass == Pass::forward) {
    attention_forward(
        context_, forward_inputs(), forward_options(),
        {.out = out_.view(), .lse = lse_.view(), .marks = tiles_ ? marks_.view() : TileMaskView{}});
  } else {
    attention_backward(
        context_, backward_inputs(), backward_options(),
        {.dq = operands_.dq.view(), .dk = operands_.dk.view(), .dv = operands_.dv.view()});
  }
}

AttentionInputs Workload::forward_inputs() const {
  return {.q = operands_.q.view(),
          .k = operands_.k.view(),
          .v = operands_.v.view(),
          .tiles = tiles_ ? tiles_->view() : TileMaskView{}};
}

AttentionForwardOptions Workload::forward_options() const {
  return {.threshold = tiles_ ? std::optional(kThreshold) : std::nullopt,
          .block_q = operands_.grid.block_q,
          .block_k = operands_.grid.block_k};
}

AttentionBackwardInputs Workload::backward_inputs() const {
  return {.q = operands_.q.view(),
          .k = operands_.k.view(),
          .v = operands_.v.view(),
          .tiles = tiles_ ? tiles_->view() : TileMaskView{},
          .out = out_.view(),
          .lse = lse_.view(),
          .dout = operands_.dout.view()};
}

AttentionBackwardOptions Workload::backward_options() const {
  return {.block_q = operands_.grid.block_q, .block_k = operands_.grid.block_k};
}

}  // namespace saccade::cli

#include "bench/operands.h"

#include <random>
#include <vector>

namespace saccade::cli {
namespace {

HostTensor fill_randomly(HostTensor tensor, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  std::vector<double> values(tensor.view().element_count());
  for (double& value : values) value = normal(engine);
  tensor.fill(values);
  return tensor;
}

}  // namespace

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

double Operands::logits() const {
  return static_cast<double>(grid.batch * grid.heads) * static_cast<double>(grid.q_len) *
         static_cast<double>(grid.k_len);
}

double Operands::bytes(int tensors) const {
  return static_cast<double>(tensors * q.view().element_count()) *
         static_cast<double>(size_of(dtype));
}

}  // namespace saccade::cli

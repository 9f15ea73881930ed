#include "replay/quality.h"

#include "host_tensor.h"

#include <cmath>

namespace saccade::cli {

Quality& Quality::operator+=(const Quality& other) {
  calls += other.calls;
  active += other.active;
  tiles += other.tiles;
  elements += other.elements;
  rows += other.rows;
  error += other.error;
  squared_error += other.squared_error;
  dense += other.dense;
  product += other.product;
  squared_out += other.squared_out;
  squared_dense += other.squared_dense;
  mass += other.mass;
  seconds += other.seconds;
  dense_seconds += other.dense_seconds;
  return *this;
}

double Quality::sparsity() const {
  return 1 - static_cast<double>(active) / static_cast<double>(tiles);
}

double Quality::relative_l1() const {
  return error / dense;
}

double Quality::rmse() const {
  return std::sqrt(squared_error / static_cast<double>(elements));
}

double Quality::cosine() const {
  return product / std::sqrt(squared_out * squared_dense);
}

double Quality::kept_mass() const {
  return mass / static_cast<double>(rows);
}

double Quality::speed_up() const {
  return dense_seconds / seconds;
}

Quality compare(const MethodOutputs& method,
                const MethodOutputs& dense,
                const TileMaskView& tiles) {
  Quality quality{.calls = 1,
                  .active = count_active(tiles),
                  .tiles = tiles.grid.tiles(),
                  .elements = dense.out.element_count(),
                  .rows = dense.lse.element_count()};
  for (std::int64_t i = 0; i < quality.elements; ++i) {
    const double out = element_at(method.out, i), exact = element_at(dense.out, i);
    quality.error += std::abs(out - exact);
    quality.squared_error += (out - exact) * (out - exact);
    quality.dense += std::abs(exact);
    quality.product += out * exact;
    quality.squared_out += out * out;
    quality.squared_dense += exact * exact;
  }
  for (std::int64_t row = 0; row < quality.rows; ++row) {
    quality.mass += std::exp(element_at(method.lse, row) - element_at(dense.lse, row));
  }
  return quality;
}

nlohmann::ordered_json to_json(const Quality& quality) {
  return {{"calls", quality.calls},
          {"sparsity", quality.sparsity()},
          {"relative_l1", quality.relative_l1()},
          {"rmse", quality.rmse()},
          {"cosine", quality.cosine()},
          {"kept_mass", quality.kept_mass()},
          {"seconds", quality.seconds},
          {"dense_seconds", quality.dense_seconds},
          {"active_tiles", quality.active},
          {"tiles", quality.tiles}};
}

}  // namespace saccade::cli

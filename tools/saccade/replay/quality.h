#pragma once

#include "replay/method.h"

#include <nlohmann/json.hpp>

#include <cstdint>

namespace saccade::cli {

// How near a method comes to dense attention, and what it computes and takes, over any number of
// calls. All elements count alike. Ratios of nothing are NaN.
struct Quality {
  std::int64_t calls = 0;
  std::int64_t active = 0, tiles = 0;
  std::int64_t elements = 0, rows = 0;
  double error = 0, squared_error = 0;  // sums over the elements of |out - dense| and its square
  double dense = 0;                     // sum of |dense|
  double product = 0, squared_out = 0, squared_dense = 0;  // of out and dense
  double mass = 0;                                         // sum over rows of exp(lse - dense lse)
  double seconds = 0, dense_seconds = 0;

  Quality& operator+=(const Quality& other);

  double sparsity() const;     // share of the tiles that was not computed
  double relative_l1() const;  // sum |out - dense| / sum |dense|
  double rmse() const;
  double cosine() const;     // between all elements of out and of dense
  double kept_mass() const;  // of the softmax, the mean over rows
  double speed_up() const;
};

// Of one call, times left 0.
Quality compare(const MethodOutputs& method, const MethodOutputs& dense, const TileMaskView& tiles);

nlohmann::ordered_json to_json(const Quality& quality);

}  // namespace saccade::cli

#pragma once

#include "check/problem_data.h"

#include <saccade/context.h>

#include <string>
#include <string_view>
#include <vector>

namespace saccade::cli {

// What a backend is checked for, in the order of the report.
enum class Quantity {
  forward_out,
  forward_lse,
  forward_scores,
  forward_marks,
  backward_gradients,
  merged_out,
  merged_lse,
  merge_gradients,
  next_mask,
  means,
  classes,
  linear_out,
  linear_gradients,
};

std::string_view name_of(Quantity quantity);

// One comparison with the reference.
struct Finding {
  Quantity quantity;
  std::string detail;  // which of several tensors, under which rule; may be empty
  double error = 0;
  double cap = 0;

  bool passed() const { return error <= cap; }
};

// Largest errors allowed (docs/numerics.md), as relative L2 of one head against double precision
// from the same inputs.
struct Caps {
  double forward;
  double gradient;
};
Caps caps_of(DType dtype);

// Cap of |lse - reference| / (1 + max|S|).
inline constexpr double kLseCap = 1e-5;

// Each runs its primitives on the backend and on the reference and compares the results.
std::vector<Finding> check_attention(const Problem& problem,
                                     const ProblemData& data,
                                     Backend backend);
std::vector<Finding> check_merge_partials(const Problem& problem, Backend backend);
std::vector<Finding> check_update_mask(const Problem& problem, Backend backend);
std::vector<Finding> check_linear(const Problem& problem, const ProblemData& data, Backend backend);
std::vector<Finding> check_routing(const Problem& problem,
                                   const ProblemData& data,
                                   Backend backend);

}  // namespace saccade::cli

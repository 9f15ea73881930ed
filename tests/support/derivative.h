#pragma once

namespace saccade::test {

// Central differences of fourth order: the truncation error is of order h^4. A loss is a sum of up
// to 5000 terms of order 1, whose rounding of about 1e-12 is divided by h.
constexpr double kStep = 1e-3;
constexpr double kDerivativeTolerance = 1e-8;

// The derivative at 0 of `at`, a function of one variable.
template <typename F>
double derivative_at_zero(F&& at) {
  return (8 * (at(kStep) - at(-kStep)) - (at(2 * kStep) - at(-2 * kStep))) / (12 * kStep);
}

}  // namespace saccade::test

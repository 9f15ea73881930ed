#pragma once

#include "support/attention.h"
#include "support/tensor.h"

#include <saccade/tile_mask.h>

#include <gtest/gtest.h>

// Comparisons with the reference. Where either value is NaN or infinite, both must be the same.
// Where the tolerances come from: docs/numerics.md.

namespace saccade::test {

// Largest relative L2 error of results of this dtype, for logits of at most `max_logit`. The error
// of a weight is the absolute error of its logit, which grows with |S|; up to 20 the rounding of
// sums and results hides it.
double forward_tolerance(DType dtype, double max_logit);
double gradient_tolerance(DType dtype, double max_logit);
// Largest absolute errors.
double lse_tolerance(double max_logit);
double score_tolerance(double max_logit);

// |got - want|_2 <= tolerance * |want|_2 in every head, so that no head hides behind the others.
testing::AssertionResult is_close(const Tensor& got, const Tensor& want, double tolerance);

// |got - want|_2 <= tolerance * (|terms|_2 + |terms - want|_2) in every head: for results that are
// the difference of `terms` and something else, of which little may be left.
testing::AssertionResult is_close_beside(const Tensor& got,
                                         const Tensor& want,
                                         const Tensor& terms,
                                         double tolerance);

// |got - want| <= tolerance for every element.
testing::AssertionResult is_within(const Tensor& got, const Tensor& want, double tolerance);

// The same dtype, layout and bits, gaps included.
testing::AssertionResult is_same(const Tensor& got, const Tensor& want);

// out, lse, scores and marks. A mark may differ from the reference's only where the tolerance of
// scores allows it, and never from the call's own scores.
void expect_close(const Problem& problem, const ForwardResult& got, const ForwardResult& want);
void expect_same(const ForwardResult& got, const ForwardResult& want);

// Gradients of `forward`, compared with the reference's of the same `forward`. dS is the difference
// P * dP - P * delta, and where softmax is saturated, or has one key, little is left of it. So
// errors are measured against the terms of the gradient before that subtraction.
void expect_close_to_reference(const Problem& problem,
                               const ForwardResult& forward,
                               const Gradients& got);
void expect_same(const Gradients& got, const Gradients& want);

}  // namespace saccade::test

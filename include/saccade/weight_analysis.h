#pragma once

#include <saccade/context.h>
#include <saccade/tensor_view.h>

#include <optional>
#include <vector>

// How the weights of attention are spread: the observation that SLA stands on (arXiv 2509.24006
// section 3). A few weights are large and of high rank, so they are computed; the many others are
// small and of low rank, so linear attention can stand in for them.

namespace saccade::sla {

struct WeightAnalysisInputs {
  // As those of attention_forward: f16, bf16 or f32, batch of full length.
  TensorView q{}, k{}, v{};
};

struct WeightAnalysisOptions {
  std::optional<double> scale{};  // of the logits; absent = 1 / sqrt(head_dim)
};

// Some of the weights P of one head, P the softmax of its logits, and what they do.
struct WeightPart {
  double share = 0;  // of the number of all weights
  double mass = 0;   // of the softmax of a row, the mean over rows
  // The relative L1 error of leaving them out, and nothing made up for it:
  // |P' v| / |P v|, P' being P with all weights but these set to 0 (arXiv 2509.24006 eq. 1).
  double error = 0;
};

// One head, whose weights are `large` above 1 / keys, `small` below 1 / (100 keys), and
// `middling` between the two.
struct WeightAnalysis {
  WeightPart large{}, middling{}, small{};
  double error_of_large_alone = 0;  // of leaving out both others

  // Stable ranks, the sum of squares over the square of the largest singular value: of P, of its
  // large weights, and of all others; 0 for a matrix of zeros. The largest singular value is
  // approached from below, to a relative 1e-3 of its square from step to step.
  double rank = 0, rank_of_large = 0, rank_of_others = 0;
};

// Analyses every head, counted batch * heads + head. Takes time as a few dozen calls of dense
// attention without SIMD, and memory of O(keys * head_dim), never the whole of P. A NaN in a head
// makes the numbers of that head NaN or meaningless. Same bits for any number of threads. Throws
// like attention_forward, and InvalidArgument for f64.
std::vector<WeightAnalysis> analyse_weights(const Context& context,
                                            const WeightAnalysisInputs& inputs,
                                            const WeightAnalysisOptions& options);

}  // namespace saccade::sla

#pragma once

#include "check/problem_data.h"
#include "host_tensor.h"

#include <saccade/attention.h>

#include <optional>
#include <span>
#include <vector>

namespace saccade::cli {

struct ForwardResult {
  std::vector<double> out, lse, scores;
  TileMask marks;
};

struct BackwardResult {
  std::vector<double> dq, dk, dv;
};

// Runs the attention of one problem on one backend, in one dtype: the problem's own, or f64 for the
// reference. Outputs are NaN beforehand, so that an element that was left out shows.
class AttentionRunner {
 public:
  AttentionRunner(const Problem& problem, const ProblemData& data, Backend backend, DType dtype);

  // `ref` [batch, heads, q_len] absent = weights against the running row maximum.
  ForwardResult forward(std::span<const double> ref = {},
                        Measure measure = Measure::largest_weight) const;

  // Out and lse where values are left out below `threshold`; marks and scores are not asked for.
  ForwardResult forward_skipping_values(double threshold, int panel_rows) const;
  int panel_rows() const;  // of the backend

  BackwardResult backward(std::span<const double> out,
                          std::span<const double> lse,
                          std::span<const double> dout,
                          std::span<const double> dlse) const;

 private:
  HostTensor queries_like(std::span<const double> values) const;     // in the layout of q
  HostTensor statistics_like(std::span<const double> values) const;  // [batch, heads, q_len]
  HostTensor keys_like(std::span<const double> values) const;        // in the layout of k
  TensorView priorities_view() const;
  AttentionInputs inputs() const;

  const Problem& problem_;
  const ProblemData& data_;
  const Context context_;
  const DType dtype_;
  const HostTensor q_, k_, v_;
};

}  // namespace saccade::cli

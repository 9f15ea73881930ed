#include "check/attention_runner.h"
#include "check/comparison.h"
#include "check/primitives.h"

#include <cmath>
#include <span>

namespace saccade::cli {
namespace {

// A score is log2(e) times a difference of two logits, each a sum of head_dim products in f32. Such
// a sum is off by about sqrt(head_dim) * 2^-24 * |q||k| scale, with head_dim <= 256 and |q||k|
// scale about 20: 2e-5, so 6e-5 for the score. An lse in it is more precise than a logit.
constexpr double kScoreCap = 1e-4;

void compare_forward(const Problem& problem,
                     const ProblemData& data,
                     const ForwardResult& got,
                     const ForwardResult& want,
                     const std::string& rule,
                     std::vector<Finding>& findings) {
  const std::int64_t head_size = problem.grid.q_len * problem.head_dim;
  findings.push_back({Quantity::forward_out, rule, relative_l2(got.out, want.out, head_size),
                      caps_of(problem.dtype).forward});
  findings.push_back({Quantity::forward_lse, rule,
                      max_difference(got.lse, want.lse) / (1 + data.max_logit), kLseCap});
  findings.push_back(
      {Quantity::forward_scores, rule, max_difference(got.scores, want.scores), kScoreCap});
  findings.push_back({Quantity::forward_marks, rule,
                      static_cast<double>(count_wrong_marks(got.marks, want.marks, want.scores,
                                                            problem.threshold, kScoreCap)),
                      0});
}

// An lse of an earlier step: this one's, each row moved a little; NaN where dlse is, beyond q_lens.
std::vector<double> earlier_lse(const Problem& problem,
                                const ProblemData& data,
                                std::span<const double> lse) {
  Random random(problem.seed, problem.number, Random::Stream::earlier_lse);
  std::vector<double> ref(lse.size());
  for (std::size_t row = 0; row < ref.size(); ++row) {
    const double moved = lse[row] + random.uniform(-0.5, 0.5);
    ref[row] = std::isnan(data.dlse[row]) ? data.dlse[row] : round_to(DType::f32, moved);
  }
  return ref;
}

// The sizes of the terms that cancel in dS = P * (dP - delta): the gradients for a dP - delta that
// is everywhere as large as dP = dout v^T typically is, |dout| * rms(v). Where a row has few keys
// the difference itself may be arbitrarily small (with one key it is zero), but its rounding error
// is not. Expressed through dlse, which enters dS as P * dlse.
BackwardResult terms_before_cancellation(const Problem& problem,
                                         const ProblemData& data,
                                         const AttentionRunner& reference,
                                         std::span<const double> lse) {
  const auto rms = [](std::span<const double> values) {
    double sum = 0;
    std::size_t count = 0;
    for (const double value : values) {
      if (std::isnan(value)) continue;
      sum += value * value;
      ++count;
    }
    return count ? std::sqrt(sum / static_cast<double>(count)) : 0;
  };
  const std::vector<double> zeros(data.dout.size());
  const double v_rms = rms(data.v);
  std::vector<double> dp_sizes(data.dlse.size());
  for (std::size_t row = 0; row < dp_sizes.size(); ++row) {
    const std::span dout_row(data.dout.data() + row * problem.head_dim, problem.head_dim);
    dp_sizes[row] = v_rms * std::sqrt(problem.head_dim) * rms(dout_row);
  }
  return reference.backward(zeros, lse, zeros, dp_sizes);
}

// Each side starts from the results of its own forward call, as it does in use.
void check_backward(const Problem& problem,
                    const ProblemData& data,
                    const AttentionRunner& runner,
                    const AttentionRunner& reference,
                    const ForwardResult& got_forward,
                    const ForwardResult& want_forward,
                    std::vector<Finding>& findings) {
  const BackwardResult got =
      runner.backward(got_forward.out, got_forward.lse, data.dout, data.dlse);
  const BackwardResult want =
      reference.backward(want_forward.out, want_forward.lse, data.dout, data.dlse);
  const BackwardResult terms =
      terms_before_cancellation(problem, data, reference, want_forward.lse);
  const auto compare = [&](const char* name, const std::vector<double>& got_gradient,
                           const std::vector<double>& want_gradient, std::int64_t length,
                           std::span<const double> gradient_terms) {
    findings.push_back(
        {Quantity::backward_gradients, name,
         relative_l2(got_gradient, want_gradient, length * problem.head_dim, gradient_terms),
         caps_of(problem.dtype).gradient});
  };
  compare("dq", got.dq, want.dq, problem.grid.q_len, terms.dq);
  compare("dk", got.dk, want.dk, problem.grid.k_len, terms.dk);
  compare("dv", got.dv, want.dv, problem.grid.k_len, {});
}

}  // namespace

std::vector<Finding> check_attention(const Problem& problem,
                                     const ProblemData& data,
                                     Backend backend) {
  const AttentionRunner runner(problem, data, backend, problem.dtype);
  const AttentionRunner reference(problem, data, Backend::reference, DType::f64);
  std::vector<Finding> findings;

  const ForwardResult got = runner.forward();
  const ForwardResult want = reference.forward();
  compare_forward(problem, data, got, want, "running reference", findings);

  const std::vector<double> ref = earlier_lse(problem, data, want.lse);
  compare_forward(problem, data, runner.forward(ref), reference.forward(ref), "lse reference",
                  findings);

  check_backward(problem, data, runner, reference, got, want, findings);
  return findings;
}

}  // namespace saccade::cli

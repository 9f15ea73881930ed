#include "check/attention_runner.h"
#include "check/comparison.h"
#include "check/primitives.h"

#include <cmath>
#include <numbers>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace saccade::cli {
namespace {

// Cap of |score - reference| / (1 + max|S|), log2 units: a score is the difference of two logits.
constexpr double kScoreCap = 2 * std::numbers::log2e * kLseCap;

// Masses below it may be anything below it.
constexpr double kLeastMass = -100;

std::vector<double> known_masses(std::vector<double> scores) {
  for (double& score : scores) {
    if (score < kLeastMass) score = kLeastMass;
  }
  return scores;
}

void compare_sums(const Problem& problem,
                  const ProblemData& data,
                  const ForwardResult& got,
                  const ForwardResult& want,
                  const std::string& rule,
                  std::vector<Finding>& findings) {
  findings.push_back({Quantity::forward_out, rule,
                      relative_l2(got.out, want.out, problem.grid.q_len * problem.head_dim),
                      caps_of(problem.dtype).forward});
  findings.push_back({Quantity::forward_lse, rule,
                      max_difference(got.lse, want.lse) / (1 + data.max_logit), kLseCap});
}

void compare_forward(const Problem& problem,
                     const ProblemData& data,
                     const ForwardResult& got,
                     const ForwardResult& want,
                     const std::string& rule,
                     std::vector<Finding>& findings) {
  const double logit_scale = 1 + data.max_logit;
  const double score_error = max_difference(got.scores, want.scores) / logit_scale;
  const auto wrong_marks = static_cast<double>(count_wrong_marks(
      got.marks, want.marks, want.scores, problem.threshold, kScoreCap * logit_scale));
  compare_sums(problem, data, got, want, rule, findings);
  findings.push_back({Quantity::forward_scores, rule, score_error, kScoreCap});
  findings.push_back({Quantity::forward_marks, rule, wrong_marks, 0});
}

// The panels of the backend, replayed; not where one lies so close to the threshold that the caps
// leave it open.
void check_skipped_values(const Problem& problem,
                          const ProblemData& data,
                          const AttentionRunner& runner,
                          const AttentionRunner& reference,
                          std::vector<Finding>& findings) {
  const int rows = runner.panel_rows();
  const double slack = kScoreCap * (1 + data.max_logit);
  const ForwardResult want = reference.forward_skipping_values(problem.threshold - slack, rows);
  const ForwardResult more = reference.forward_skipping_values(problem.threshold + slack, rows);
  if (max_difference(more.lse, want.lse) > 0) return;
  const ForwardResult got = runner.forward_skipping_values(problem.threshold, rows);
  compare_sums(problem, data, got, want, "skipped values", findings);
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
// is everywhere as large as dP itself, which is sqrt(head_dim) because dout and v are unit normal.
// Where a row has few keys the difference may be arbitrarily small (with one key it is zero), but
// its rounding error is not. Expressed through dlse, which enters dS as P * dlse.
BackwardResult terms_before_cancellation(const Problem& problem,
                                         const ProblemData& data,
                                         const AttentionRunner& reference,
                                         std::span<const double> lse) {
  const std::vector<double> zeros(data.dout.size());
  const std::vector<double> dp_sizes(data.dlse.size(), std::sqrt(problem.head_dim));
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
  const Measure measure = problem.number % 2 == 0 ? Measure::mean_mass : Measure::largest_mass;
  ForwardResult got_masses = runner.forward({}, measure);
  ForwardResult want_masses = reference.forward({}, measure);
  got_masses.scores = known_masses(std::move(got_masses.scores));
  want_masses.scores = known_masses(std::move(want_masses.scores));
  compare_forward(problem, data, got_masses, want_masses, std::string(name_of(measure)), findings);

  check_skipped_values(problem, data, runner, reference, findings);
  check_backward(problem, data, runner, reference, got, want, findings);
  return findings;
}

}  // namespace saccade::cli

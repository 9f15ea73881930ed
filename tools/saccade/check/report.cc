#include "check/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace saccade::cli {
namespace {

std::string describe(const Finding& finding) {
  std::string subject(name_of(finding.quantity));
  if (!finding.detail.empty()) subject += ", " + finding.detail;
  if (std::isinf(finding.error)) {
    return fmt::format("{}: NaN, infinity or exact 0 in other places", subject);
  }
  return fmt::format("{}: {:.3g}, at most {:.3g} allowed", subject, finding.error, finding.cap);
}

}  // namespace

std::string_view name_of(Quantity quantity) {
  switch (quantity) {
    case Quantity::forward_out:
      return "attention_forward out";
    case Quantity::forward_lse:
      return "attention_forward lse";
    case Quantity::forward_scores:
      return "attention_forward scores";
    case Quantity::forward_marks:
      return "attention_forward marks";
    case Quantity::backward_gradients:
      return "attention_backward";
    case Quantity::merged_out:
      return "merge_partials out";
    case Quantity::merged_lse:
      return "merge_partials lse";
    case Quantity::merge_gradients:
      return "merge_partials_backward";
    case Quantity::next_mask:
      return "update_mask";
    case Quantity::means:
      return "pool_tiles";
    case Quantity::classes:
      return "select_tiles";
    case Quantity::linear_out:
      return "linear_forward";
    case Quantity::linear_gradients:
      return "linear_backward";
  }
  return "";
}

Caps caps_of(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return {.forward = 1e-3, .gradient = 2e-3};
    case DType::bf16:
      return {.forward = 5e-3, .gradient = 1e-2};
    default:
      return {.forward = 1e-5, .gradient = 2e-5};
  }
}

void BackendReport::add(const Problem& problem, const std::vector<Finding>& findings) {
  std::map<Quantity, bool> passed;
  for (const Finding& finding : findings) {
    Row& row = rows_[{finding.quantity, problem.dtype}];
    row.worst = std::max(row.worst, finding.error);
    row.cap = finding.cap;
    passed.try_emplace(finding.quantity, true).first->second &= finding.passed();
    if (finding.passed()) continue;
    add_failure(problem, describe(finding));
  }
  for (const auto& [quantity, all_passed] : passed) {
    Row& row = rows_[{quantity, problem.dtype}];
    row.problems += 1;
    row.failed += !all_passed;
  }
}

void BackendReport::add_refusal(const Problem& problem, std::string_view message) {
  add_failure(problem, fmt::format("refused: {}", message));
}

void BackendReport::add_failure(const Problem& problem, std::string reason) {
  if (failures_.empty() || failures_.back().problem.number != problem.number) {
    failures_.push_back({problem, {}});
  }
  failures_.back().reasons.push_back(std::move(reason));
}

std::string BackendReport::command_for(const Problem& problem) const {
  return fmt::format("saccade check --backend {} --seed {} --case {}", backend_, problem.seed,
                     problem.number);
}

void BackendReport::print() const {
  fmt::print("{:<27}{:<7}{:>9}{:>13}{:>10}\n", fmt::format("backend {}", backend_), "dtype",
             "problems", "worst error", "cap");
  for (const auto& [key, row] : rows_) {
    const bool is_exact = row.cap == 0;
    fmt::print("{:<27}{:<7}{:>9}{:>13}{:>10}  {}\n", name_of(key.first), name_of(key.second),
               row.problems,
               is_exact ? fmt::format("{:.0f}", row.worst) : fmt::format("{:.2e}", row.worst),
               is_exact ? "exact" : fmt::format("{:.0e}", row.cap),
               row.failed ? fmt::format("{} FAILED", row.failed) : "passed");
  }
  constexpr std::size_t kPrintedFailures = 5;
  for (std::size_t i = 0; i < std::min(failures_.size(), kPrintedFailures); ++i) {
    const Failure& failure = failures_[i];
    fmt::print("\n{}\n{}\n", command_for(failure.problem), describe(failure.problem));
    for (const std::string& reason : failure.reasons) fmt::print("  {}\n", reason);
  }
  if (failures_.size() > kPrintedFailures) {
    fmt::print("\n{} more problems failed.\n", failures_.size() - kPrintedFailures);
  }
}

nlohmann::ordered_json BackendReport::to_json() const {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const auto& [key, row] : rows_) {
    rows.push_back({{"quantity", name_of(key.first)},
                    {"dtype", name_of(key.second)},
                    {"problems", row.problems},
                    {"failed", row.failed},
                    {"worst_error", row.worst},
                    {"cap", row.cap}});
  }
  nlohmann::ordered_json failures = nlohmann::ordered_json::array();
  for (const Failure& failure : failures_) {
    failures.push_back({{"command", command_for(failure.problem)},
                        {"problem", describe(failure.problem)},
                        {"reasons", failure.reasons}});
  }
  return {{"backend", backend_}, {"passed", passed()}, {"rows", rows}, {"failures", failures}};
}

}  // namespace saccade::cli

#include "check/report.h"

#include <fmt/format.h>

#include <algorithm>

namespace saccade::cli {

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
    failures_.push_back(
        {problem, fmt::format("{}, {}: {:.3g}, at most {:.3g} allowed", name_of(finding.quantity),
                              finding.detail, finding.error, finding.cap)});
  }
  for (const auto& [quantity, all_passed] : passed) {
    Row& row = rows_[{quantity, problem.dtype}];
    row.problems += 1;
    row.failed += !all_passed;
  }
}

void BackendReport::add_refusal(const Problem& problem, std::string_view message) {
  failures_.push_back({problem, fmt::format("refused: {}", message)});
}

std::string BackendReport::command_for(const Problem& problem) const {
  return fmt::format("saccade check --backend {} --seed {} --case {}", backend_, problem.seed,
                     problem.number);
}

void BackendReport::print() const {
  fmt::print("{:<27}{:<7}{:>9}{:>13}{:>10}\n", fmt::format("backend {}", backend_), "dtype",
             "problems", "worst error", "cap");
  for (const auto& [key, row] : rows_) {
    fmt::print("{:<27}{:<7}{:>9}{:>13.2e}{:>10.0e}  {}\n", name_of(key.first), name_of(key.second),
               row.problems, row.worst, row.cap,
               row.failed ? fmt::format("{} FAILED", row.failed) : "passed");
  }
  for (const Failure& failure : failures_) {
    fmt::print("\n{}\n  {}\n  {}\n", failure.what, describe(failure.problem),
               command_for(failure.problem));
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
    failures.push_back({{"what", failure.what},
                        {"problem", describe(failure.problem)},
                        {"command", command_for(failure.problem)}});
  }
  return {{"backend", backend_}, {"passed", passed()}, {"rows", rows}, {"failures", failures}};
}

}  // namespace saccade::cli

#pragma once

#include "check/primitives.h"

#include <nlohmann/json.hpp>

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace saccade::cli {

// What was found about one backend.
class BackendReport {
 public:
  explicit BackendReport(std::string backend) : backend_(std::move(backend)) {}

  void add(const Problem& problem, const std::vector<Finding>& findings);
  void add_refusal(const Problem& problem, std::string_view message);

  bool passed() const { return failures_.empty(); }

  // A table with one row for each quantity and dtype, then the first problems that failed, each
  // with the command that repeats it.
  void print() const;
  // Errors that are infinite are null.
  nlohmann::ordered_json to_json() const;

 private:
  struct Row {
    int problems = 0;
    int failed = 0;
    double worst = 0;
    double cap = 0;
  };
  struct Failure {
    Problem problem;
    std::vector<std::string> reasons;
  };

  void add_failure(const Problem& problem, std::string reason);
  std::string command_for(const Problem& problem) const;

  std::string backend_;
  std::map<std::pair<Quantity, DType>, Row> rows_;
  std::vector<Failure> failures_;
};

}  // namespace saccade::cli

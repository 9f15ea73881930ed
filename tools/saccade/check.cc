#include "check/primitives.h"
#include "check/report.h"
#include "commands.h"
#include "machine.h"
#include "progress_line.h"

#include <saccade/error.h>
#include <saccade/info.h>

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace saccade::cli {
namespace {

struct CheckOptions {
  std::vector<std::string> backends;  // empty = all that are available
  std::uint64_t seed = 1;
  std::optional<int> number;  // of the only problem to check
  bool quick = false;
  bool as_json = false;
};

// The backends that are compared with the reference.
const std::vector<Backend> kCheckedBackends = {Backend::cpu};

std::vector<int> problem_numbers(const CheckOptions& options) {
  if (options.number) return {*options.number};
  constexpr int kRounds = 3;
  std::vector<int> numbers;
  for (int number = 0; number < kRounds * kProblemsPerRound; ++number) {
    const bool is_head_dim_128_or_256 = number / 3 % 8 == 7;
    if (!options.quick || is_head_dim_128_or_256) numbers.push_back(number);
  }
  return numbers;
}

void check_problem(const Problem& problem, Backend backend, BackendReport& report) {
  try {
    const ProblemData data = make_data(problem);
    report.add(problem, check_attention(problem, data, backend));
    report.add(problem, check_merge_partials(problem, backend));
    report.add(problem, check_update_mask(problem, backend));
    report.add(problem, check_routing(problem, data, backend));
    report.add(problem, check_linear(problem, data, backend));
  } catch (const Error& error) {
    report.add_refusal(problem, error.what());
  }
}

BackendReport check_backend(Backend backend, const CheckOptions& options) {
  BackendReport report{std::string(name_of(backend))};
  ProgressLine progress;
  const std::vector<int> numbers = problem_numbers(options);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    progress.show(fmt::format("{}: problem {} of {}", name_of(backend), i + 1, numbers.size()));
    check_problem(make_problem(options.seed, numbers[i]), backend, report);
  }
  return report;
}

bool is_available(Backend backend) {
  for (const BackendInfo& info : backends()) {
    if (info.name == name_of(backend)) return info.available;
  }
  return false;
}

std::vector<Backend> chosen_backends(const CheckOptions& options) {
  std::vector<Backend> chosen;
  for (const Backend backend : kCheckedBackends) {
    const bool is_named = std::ranges::count(options.backends, name_of(backend)) > 0;
    if (options.backends.empty() ? is_available(backend) : is_named) chosen.push_back(backend);
  }
  return chosen;
}

int run_check(const CheckOptions& options) {
  bool passed = true;
  nlohmann::ordered_json json = describe_machine();
  json["seed"] = options.seed;
  json["backends"] = nlohmann::ordered_json::array();
  for (const Backend backend : chosen_backends(options)) {
    const BackendReport report = check_backend(backend, options);
    passed = passed && report.passed();
    json["backends"].push_back(report.to_json());
    if (!options.as_json) report.print();
  }
  json["passed"] = passed;
  if (options.as_json) fmt::print("{}\n", json.dump(2));
  return passed ? kSuccess : kFailure;
}

}  // namespace

void add_check_command(CLI::App& app, Invocation& invocation) {
  CLI::App* command =
      app.add_subcommand("check", "Compare every backend with the double-precision reference");
  const auto options = std::make_shared<CheckOptions>();
  std::vector<std::string> names;
  for (const Backend backend : kCheckedBackends) names.emplace_back(name_of(backend));
  command->add_option("--backend", options->backends, "Check only this backend")
      ->check(CLI::IsMember(names));
  command->add_option("--seed", options->seed, "Draw other problems")->capture_default_str();
  command->add_option("--case", options->number, "Check only the problem of this number")
      ->check(CLI::Range(0, 1'000'000));
  command->add_flag("--quick", options->quick, "Check one problem in eight");
  command->add_flag("--json", options->as_json, "Print JSON");
  command->callback([options, &invocation] { invocation.exit_code = run_check(*options); });
}

}  // namespace saccade::cli

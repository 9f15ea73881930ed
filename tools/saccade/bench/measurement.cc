#include "bench/measurement.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>

namespace saccade::cli {
namespace {

double seconds_of(const Workload& workload, Pass pass) {
  const auto begin = std::chrono::steady_clock::now();
  workload.run(pass);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

double Measurement::median_seconds() const {
  std::vector<double> sorted = seconds;
  std::ranges::sort(sorted);
  const std::size_t middle = sorted.size() / 2;
  return sorted.size() % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

double Measurement::efficiency() const {
  return (1 - sparsity.value_or(0)) * dense_seconds / median_seconds();
}

std::vector<Measurement> measure(const Context& context,
                                 const Operands& operands,
                                 const std::vector<double>& sparsities,
                                 int repeats,
                                 const std::function<void(int repeat)>& on_repeat) {
  std::vector<std::unique_ptr<Workload>> workloads;
  workloads.push_back(std::make_unique<Workload>(context, operands, std::nullopt));
  for (const double sparsity : sparsities) {
    workloads.push_back(std::make_unique<Workload>(context, operands, sparsity));
  }
  std::vector<Measurement> measurements;
  for (const Pass pass : {Pass::forward, Pass::backward}) {
    for (const auto& workload : workloads) {
      workload->run(pass);
      measurements.push_back({.head_dim = operands.head_dim,
                              .pass = pass,
                              .sparsity = workload->sparsity(),
                              .flops = workload->flops(pass)});
    }
  }
  for (int repeat = 0; repeat < repeats; ++repeat) {
    on_repeat(repeat);
    for (std::size_t i = 0; i < measurements.size(); ++i) {
      const Workload& workload = *workloads[i % workloads.size()];
      measurements[i].seconds.push_back(seconds_of(workload, measurements[i].pass));
    }
  }
  for (std::size_t i = 0; i < measurements.size(); ++i) {
    const std::size_t dense = i - i % workloads.size();
    measurements[i].dense_seconds = measurements[dense].median_seconds();
  }
  return measurements;
}

nlohmann::ordered_json to_json(const Measurement& measurement, double peak_gflops) {
  nlohmann::ordered_json json = {{"head_dim", measurement.head_dim},
                                 {"pass", name_of(measurement.pass)},
                                 {"sparsity", nullptr},
                                 {"median_seconds", measurement.median_seconds()},
                                 {"gflops", measurement.gflops()},
                                 {"share_of_peak", measurement.gflops() / peak_gflops},
                                 {"efficiency", measurement.efficiency()},
                                 {"seconds", measurement.seconds}};
  if (measurement.sparsity) json["sparsity"] = *measurement.sparsity;
  return json;
}

void print_heading() {
  fmt::print("{:>8}  {:<9}{:>9}{:>11}{:>10}{:>9}{:>12}\n", "head_dim", "pass", "sparsity", "ms",
             "GFLOP/s", "of peak", "efficiency");
}

void print(const Measurement& measurement, double peak_gflops) {
  const std::optional<double> sparsity = measurement.sparsity;
  fmt::print("{:>8}  {:<9}{:>9}{:>11.3f}{:>10.1f}{:>7.1f} %{:>12}\n", measurement.head_dim,
             name_of(measurement.pass),
             sparsity ? fmt::format("{:.1f} %", 100 * *sparsity) : "dense",
             1e3 * measurement.median_seconds(), measurement.gflops(),
             100 * measurement.gflops() / peak_gflops,
             sparsity ? fmt::format("{:.3f}", measurement.efficiency()) : "");
}

}  // namespace saccade::cli

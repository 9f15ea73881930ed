#include "bench/measurement.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>

namespace saccade::cli {
namespace {

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double computed_share(const Measurement& measurement) {
  return 1 - measurement.sparsity.value_or(0);
}

double seconds_of(const Workload& workload, const Measurement& measurement) {
  const int calls = static_cast<int>(std::ceil(0.5 / computed_share(measurement)));
  const auto begin = std::chrono::steady_clock::now();
  for (int call = 0; call < calls; ++call) workload.run(measurement.pass);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  return elapsed.count() / calls;
}

}  // namespace

double Measurement::median_seconds() const {
  return median(seconds);
}

double Measurement::efficiency() const {
  return median(efficiencies);
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
      Measurement& measurement = measurements[i];
      const std::size_t workload = i % workloads.size();
      const double seconds = seconds_of(*workloads[workload], measurement);
      measurement.seconds.push_back(seconds);
      const double dense_seconds = measurements[i - workload].seconds.back();
      measurement.efficiencies.push_back(computed_share(measurement) * dense_seconds / seconds);
    }
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

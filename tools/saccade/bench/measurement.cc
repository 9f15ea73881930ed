#include "bench/measurement.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <utility>

namespace saccade::cli {
namespace {

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double seconds_of(const Job& job, int calls) {
  const auto begin = std::chrono::steady_clock::now();
  for (int call = 0; call < calls; ++call) job.run();
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
  return elapsed.count() / calls;
}

// Index of dense attention in the pass of a job.
std::size_t dense_of(const std::vector<Measurement>& measurements, const Job& job) {
  const auto found = std::ranges::find_if(
      measurements, [&](const Measurement& other) { return other.job.pass == job.pass; });
  return static_cast<std::size_t>(found - measurements.begin());
}

bool is_masked_attention(const Job& job) {
  return job.kernel == "attention" && job.sparsity.has_value();
}

}  // namespace

double Measurement::typical_seconds() const {
  return statistic == Statistic::fastest ? std::ranges::min(seconds) : median(seconds);
}

double Measurement::share_of(double Rates::*roof) const {
  if (statistic == Statistic::fastest) {
    return gflops() / std::ranges::max(rates, {}, roof).*roof;
  }
  std::vector<double> shares;
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    shares.push_back(1e-9 * job.flops / seconds[i] / rates[i].*roof);
  }
  return median(shares);
}

double Measurement::speed_up() const {
  if (statistic == Statistic::fastest) return std::ranges::min(dense_seconds) / typical_seconds();
  std::vector<double> speed_ups;
  for (std::size_t i = 0; i < seconds.size(); ++i) {
    speed_ups.push_back(dense_seconds[i] / seconds[i]);
  }
  return median(speed_ups);
}

std::vector<Measurement> measure(std::int64_t length,
                                 int head_dim,
                                 std::vector<Job> jobs,
                                 int repeats,
                                 Statistic statistic,
                                 const std::function<Rates()>& rates,
                                 const std::function<void(int repeat)>& on_repeat) {
  std::vector<Measurement> measurements;
  std::vector<double> first_seconds;
  for (Job& job : jobs) {
    first_seconds.push_back(seconds_of(job, 1));
    measurements.push_back(
        {.length = length, .head_dim = head_dim, .job = std::move(job), .statistic = statistic});
  }
  for (int repeat = 0; repeat < repeats; ++repeat) {
    on_repeat(repeat);
    Rates before = rates();
    for (std::size_t i = 0; i < measurements.size(); ++i) {
      Measurement& measurement = measurements[i];
      const std::size_t dense = dense_of(measurements, measurement.job);
      const double calls = statistic == Statistic::fastest
                               ? 1
                               : std::ceil(0.5 * first_seconds[dense] / first_seconds[i]);
      const double seconds = seconds_of(measurement.job, static_cast<int>(calls));
      const Rates after = rates();
      measurement.seconds.push_back(seconds);
      measurement.rates.push_back(
          {(before.fma + after.fma) / 2, (before.product + after.product) / 2});
      before = after;
      measurement.dense_seconds.push_back(measurements[dense].seconds.back());
    }
  }
  return measurements;
}

namespace {

std::vector<double> rates_of(const Measurement& measurement, double Rates::*roof) {
  std::vector<double> values;
  for (const Rates& rates : measurement.rates) values.push_back(rates.*roof);
  return values;
}

}  // namespace

nlohmann::ordered_json to_json(const Measurement& measurement, double gbytes_per_second) {
  const Job& job = measurement.job;
  nlohmann::ordered_json json = {
      {"length", measurement.length},
      {"head_dim", measurement.head_dim},
      {"kernel", job.kernel},
      {"pass", name_of(job.pass)},
      {"sparsity", nullptr},
      {"typical_seconds", measurement.typical_seconds()},
      {"gflops", measurement.gflops()},
      {"share_of_peak", measurement.share_of(&Rates::fma)},
      {"share_of_product", measurement.share_of(&Rates::product)},
      {"share_of_bandwidth", measurement.share_of_bandwidth(gbytes_per_second)},
      {"speed_up", measurement.speed_up()},
      {"efficiency", nullptr},
      {"seconds", measurement.seconds},
      {"fma_rates", rates_of(measurement, &Rates::fma)},
      {"product_rates", rates_of(measurement, &Rates::product)}};
  if (job.sparsity) json["sparsity"] = *job.sparsity;
  if (is_masked_attention(job)) json["efficiency"] = measurement.efficiency();
  return json;
}

void print_heading() {
  fmt::print("{:>7}{:>10}  {:<18}{:<9}{:>9}{:>11}{:>10}{:>10}{:>12}{:>11}{:>10}{:>12}\n", "length",
             "head_dim", "kernel", "pass", "sparsity", "ms", "GFLOP/s", "of peak", "of product",
             "of memory", "speed-up", "efficiency");
}

void print(const Measurement& measurement, double gbytes_per_second) {
  const Job& job = measurement.job;
  constexpr const char* kRow =
      "{:>7}{:>10}  {:<18}{:<9}{:>9}{:>11.3f}{:>10.1f}{:>8.1f} %{:>10.1f} %{:>9.1f} %{:>10}"
      "{:>12}\n";
  fmt::print(kRow, measurement.length, measurement.head_dim, job.kernel, name_of(job.pass),
             job.sparsity ? fmt::format("{:.1f} %", 100 * *job.sparsity) : "",
             1e3 * measurement.typical_seconds(), measurement.gflops(),
             100 * measurement.share_of(&Rates::fma), 100 * measurement.share_of(&Rates::product),
             100 * measurement.share_of_bandwidth(gbytes_per_second),
             fmt::format("{:.2f}x", measurement.speed_up()),
             is_masked_attention(job) ? fmt::format("{:.3f}", measurement.efficiency()) : "");
}

}  // namespace saccade::cli

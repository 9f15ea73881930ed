#pragma once

#include "bench/job.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <vector>

namespace saccade::cli {

// The timings of one job.
struct Measurement {
  std::int64_t length = 0;
  int head_dim = 0;
  Job job;
  std::vector<double> seconds;    // one for each repeat
  std::vector<double> speed_ups;  // of each repeat, against dense attention in the same pass

  double median_seconds() const;
  double gflops() const { return job.flops / median_seconds() * 1e-9; }
  double speed_up() const;  // the median
  // (1 - sparsity) x dense time / time: 1 where every skipped tile saves its full share. Makes
  // sense for attention with a mask only.
  double efficiency() const { return speed_up() * (1 - job.sparsity.value_or(0)); }
};

// Times jobs in turn within every repeat, so that a change of the machine's speed meets all of them
// alike: speed-ups compare times of one repeat. The first job of each pass is dense attention.
// A timing is the mean of as many calls as take half as long as a dense one, or a little more. One
// untimed turn goes first.
std::vector<Measurement> measure(std::int64_t length,
                                 int head_dim,
                                 std::vector<Job> jobs,
                                 int repeats,
                                 const std::function<void(int repeat)>& on_repeat);

nlohmann::ordered_json to_json(const Measurement& measurement, double peak_gflops);
void print_heading();
void print(const Measurement& measurement, double peak_gflops);

}  // namespace saccade::cli

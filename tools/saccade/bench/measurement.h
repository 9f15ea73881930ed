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
  std::vector<double> fma_rates;  // GFLOP/s that the machine gave meanwhile
  std::vector<double> speed_ups;  // of each repeat, against dense attention in the same pass

  double median_seconds() const;
  double gflops() const { return job.flops / median_seconds() * 1e-9; }
  // Medians over the repeats.
  double share_of_peak() const;  // of gflops in the FMAs that the machine gave meanwhile
  double speed_up() const;
  // Of the bandwidth of memory, if every input and output moved once.
  double share_of_bandwidth(double gbytes_per_second) const {
    return 1e-9 * job.bytes / median_seconds() / gbytes_per_second;
  }
  // (1 - sparsity) x dense time / time: 1 where every skipped tile saves its full share. Makes
  // sense for attention with a mask only.
  double efficiency() const { return speed_up() * (1 - job.sparsity.value_or(0)); }
};

// Times jobs in turn within every repeat, so that a change of the machine's speed meets all of them
// alike: speed-ups compare times of one repeat. `fma_rate` is asked between the timings, so that
// shares of the peak compare a timing with what the machine gave just before and after it, which on
// one that is shared may change by a third within seconds. The first job of each pass is dense
// attention.
// A timing is the mean of as many calls as take half as long as a dense one, or a little more. One
// untimed turn goes first.
std::vector<Measurement> measure(std::int64_t length,
                                 int head_dim,
                                 std::vector<Job> jobs,
                                 int repeats,
                                 const std::function<double()>& fma_rate,
                                 const std::function<void(int repeat)>& on_repeat);

nlohmann::ordered_json to_json(const Measurement& measurement, double gbytes_per_second);
void print_heading();
void print(const Measurement& measurement, double gbytes_per_second);

}  // namespace saccade::cli

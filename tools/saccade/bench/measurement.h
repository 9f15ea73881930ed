#pragma once

#include "bench/job.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <functional>
#include <vector>

namespace saccade::cli {

// Which of several timings counts: their median; or the fastest one, for machines that are shared,
// where others only ever make a timing longer.
enum class Statistic { median, fastest };

// What the machine gives while jobs are timed, GFLOP/s: see roofs.h.
struct Rates {
  double fma = 0;
  double product = 0;
};

// The timings of one job.
struct Measurement {
  std::int64_t length = 0;
  int head_dim = 0;
  Job job;
  Statistic statistic = Statistic::median;
  // One for each repeat.
  std::vector<double> seconds;
  std::vector<double> dense_seconds;  // of dense attention in the same pass
  std::vector<Rates> rates;           // that the machine gave meanwhile

  double typical_seconds() const;
  double gflops() const { return job.flops / typical_seconds() * 1e-9; }
  // Of the repeats' own shares of the rate that the machine gave meanwhile, or of the highest one.
  double share_of(double Rates::*roof) const;
  // Of the repeats' own speed-ups against dense attention, or of the two fastest timings.
  double speed_up() const;
  // Of the bandwidth of memory, if every input and output moved once.
  double share_of_bandwidth(double gbytes_per_second) const {
    return 1e-9 * job.bytes / typical_seconds() / gbytes_per_second;
  }
  // (1 - sparsity) x dense time / time: 1 where every skipped tile saves its full share. Makes
  // sense for attention with a mask only.
  double efficiency() const { return speed_up() * (1 - job.sparsity.value_or(0)); }
};

// Times jobs in turn within every repeat, so that a change of the machine's speed meets all of them
// alike: median speed-ups compare times of one repeat. `rates` is asked between the timings, so
// that shares compare a timing with what the machine gave just before and after it, which on one
// that is shared may change by a third within seconds. The first job of each pass is
// dense attention. For a median, a timing is the mean of as many calls as take half as long as a
// dense one, or a little more; where the fastest one counts, it is one call. One untimed turn goes
// first.
std::vector<Measurement> measure(std::int64_t length,
                                 int head_dim,
                                 std::vector<Job> jobs,
                                 int repeats,
                                 Statistic statistic,
                                 const std::function<Rates()>& rates,
                                 const std::function<void(int repeat)>& on_repeat);

nlohmann::ordered_json to_json(const Measurement& measurement, double gbytes_per_second);
void print_heading();
void print(const Measurement& measurement, double gbytes_per_second);

}  // namespace saccade::cli

#pragma once

#include "bench/workload.h"

#include <nlohmann/json.hpp>

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

namespace saccade::cli {

// The timings of one pass of one workload.
struct Measurement {
  int head_dim = 0;
  Pass pass = Pass::forward;
  std::optional<double> sparsity;  // absent = dense
  double flops = 0;
  std::vector<double> seconds;  // one for each repeat
  // (1 - sparsity) x dense time / time of each repeat: 1 where every skipped tile saves its full
  // share.
  std::vector<double> efficiencies;

  double median_seconds() const;
  double gflops() const { return flops / median_seconds() * 1e-9; }
  double efficiency() const;  // the median
};

// Times both passes of dense attention and of each sparsity, in turn within every repeat, so that a
// change of the machine's speed meets all of them alike: efficiencies compare times of one repeat.
// A sparse timing is the mean of as many calls as take half as long as a dense one, or a little
// more. One untimed turn goes first.
std::vector<Measurement> measure(const Context& context,
                                 const Operands& operands,
                                 const std::vector<double>& sparsities,
                                 int repeats,
                                 const std::function<void(int repeat)>& on_repeat);

nlohmann::ordered_json to_json(const Measurement& measurement, double peak_gflops);
void print_heading();
void print(const Measurement& measurement, double peak_gflops);

}  // namespace saccade::cli

#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace saccade::cli {

enum class Pass { forward, backward };

inline std::string_view name_of(Pass pass) {
  return pass == Pass::forward ? "forward" : "backward";
}

// One call that is timed. Jobs run in the order in which they were listed: a backward pass finds
// the results of its forward pass.
struct Job {
  std::string kernel;
  Pass pass = Pass::forward;
  std::optional<double> sparsity;  // inactive share of the tiles; absent = no mask
  double flops = 0;                // that the call needs
  double bytes = 0;                // of its inputs and outputs, each once
  std::function<void()> run;
};

}  // namespace saccade::cli

#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace saccade {

// "major.minor.patch" of the library that is linked, and the commit it was built from ("" unknown).
std::string_view version();
std::string_view commit();

struct BackendInfo {
  std::string name;
  bool available = false;
  std::string details;  // what it runs on, or why it is missing and what would bring it
};

// Every backend that saccade has, in this build and on this machine.
std::vector<BackendInfo> backends();

// Instruction sets that the cpu backend was built for and this machine has, best first; the first
// is in use unless the environment variable SACCADE_CPU_TARGET (read once) names another.
// "avx512bf16" is "avx512" that multiplies bf16 operands as they are; "bf16_dot_emulated", never
// listed, does the same on AVX2, slowly: it shows what the rounding of weights to bf16 does.
std::vector<std::string> cpu_targets();

}  // namespace saccade

#include "cpu/targets.h"

#include <saccade/error.h>
#include <saccade/info.h>

#include <hwy/highway.h>
#include <hwy/targets.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <string>

namespace saccade {
namespace cpu {
namespace {

// Our name of a Highway target; empty for those that are never built.
std::string target_name(std::int64_t target) {
  switch (target) {
    case HWY_AVX3:
      return "avx512";
    case HWY_AVX2:
      return "avx2";
    case HWY_SSE4:
      return "sse4";
    case HWY_NEON:
      return "neon";
    case HWY_EMU128:
      return "scalar";
    default:
      return hwy::TargetName(target);
  }
}

void force_target() {
  const std::vector<std::string> available = cpu_targets();  // before the choice narrows it
  if (available.empty()) {
    throw Unsupported("the cpu backend needs SSE4.2 and AES (x86, 2010 or later) or NEON");
  }
  const char* forced = std::getenv("SACCADE_CPU_TARGET");
  if (forced == nullptr || *forced == '\0') return;
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (target_name(target) != forced) continue;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    return;
  }
  throw InvalidArgument(
      fmt::format("SACCADE_CPU_TARGET is '{}', but this build and machine have: {}", forced,
                  fmt::join(available, ", ")));
}

}  // namespace

void choose_target() {
  [[maybe_unused]] static const bool chosen = (force_target(), true);
}

}  // namespace cpu

std::vector<std::string> cpu_targets() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
      list.push_back(cpu::target_name(target));
    }
    return list;
  }();
  return names;
}

}  // namespace saccade

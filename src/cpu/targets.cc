#include "cpu/targets.h"

#include <saccade/error.h>
#include <saccade/info.h>

#include <hwy/highway.h>
#include <hwy/targets.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
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

constexpr const char* kNativeDot = "avx512bf16";
constexpr const char* kEmulatedDot = "bf16_dot_emulated";

bool has_target(std::int64_t target) {
  const std::vector<std::int64_t> targets = hwy::SupportedAndGeneratedTargets();
  return std::ranges::find(targets, target) != targets.end();
}

// The compiler that built the kernels must know the instructions, and so must the machine.
bool has_native_dot() {
#if HWY_ARCH_X86_64 && HWY_COMPILER_GCC
  return has_target(HWY_AVX3) && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

void use_target(std::int64_t target) {
  hwy::SetSupportedTargetsForTest(target);
  hwy::GetChosenTarget().Update(target);
}

Bf16Dot force_target() {
  const std::vector<std::string> available = cpu_targets();  // before the choice narrows it
  if (available.empty()) {
    throw Unsupported("the cpu backend needs SSE4.2 and AES (x86, 2010 or later) or NEON");
  }
  const char* variable = std::getenv("SACCADE_CPU_TARGET");
  const std::string forced = variable == nullptr ? "" : variable;
  if (forced.empty()) return has_native_dot() ? Bf16Dot::native : Bf16Dot::none;
  if (forced == kNativeDot && has_native_dot()) {
    use_target(HWY_AVX3);
    return Bf16Dot::native;
  }
  if (forced == kEmulatedDot && has_target(HWY_AVX2)) {
    use_target(HWY_AVX2);
    return Bf16Dot::emulated;
  }
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (target_name(target) != forced) continue;
    use_target(target);
    return Bf16Dot::none;
  }
  throw InvalidArgument(
      fmt::format("SACCADE_CPU_TARGET is '{}', but this build and machine have: {}", forced,
                  fmt::join(available, ", ")));
}

Bf16Dot chosen_dot() {
  static const Bf16Dot dot = force_target();
  return dot;
}

}  // namespace

void choose_target() {
  chosen_dot();
}

Bf16Dot bf16_dot() {
  return chosen_dot();
}

}  // namespace cpu

std::vector<std::string> cpu_targets() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    if (cpu::has_native_dot()) list.emplace_back(cpu::kNativeDot);
    for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
      list.push_back(cpu::target_name(target));
    }
    return list;
  }();
  return names;
}

}  // namespace saccade

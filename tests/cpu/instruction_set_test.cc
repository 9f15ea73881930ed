#include "cpu/targets.h"
#include "support/attention.h"

#include <saccade/info.h>

#include <hwy/targets.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <string>

namespace saccade::test {
namespace {

// What SACCADE_CPU_TARGET asks for; "" = the best that there is.
std::string wanted() {
  const char* name = std::getenv("SACCADE_CPU_TARGET");
  return name == nullptr ? "" : name;
}

// Skips everything where this machine lacks what is wanted.
class InstructionSet : public testing::Environment {
 public:
  void SetUp() override {
    std::vector<std::string> available = cpu_targets();
    // Not an instruction set, and therefore never listed: see info.h.
    if (std::ranges::count(available, "avx2") > 0) available.emplace_back("bf16_dot_emulated");
    if (!wanted().empty() && std::ranges::find(available, wanted()) == available.end()) {
      GTEST_SKIP() << "not run: this machine lacks " << wanted();
    }
  }
};

[[maybe_unused]] const testing::Environment* const kInstructionSet =
    testing::AddGlobalTestEnvironment(new InstructionSet);

// Otherwise every other test here would pass on the best instruction set again and again.
TEST(CpuInstructionSetTest, TheWantedOneIsInUse) {
  if (wanted().empty()) GTEST_SKIP() << "SACCADE_CPU_TARGET is not set";
  const std::map<std::string, std::int64_t> targets{
      {"avx512bf16", HWY_AVX3}, {"avx512", HWY_AVX3}, {"avx2", HWY_AVX2},
      {"sse4", HWY_SSE4},       {"neon", HWY_NEON},   {"bf16_dot_emulated", HWY_AVX2}};
  Random random(1);
  run_forward({.backend = Backend::cpu}, Problem({.q_len = 3, .k_len = 5}, DType::f32, random));
  EXPECT_EQ(hwy::SupportedTargets(), targets.at(wanted()));
  EXPECT_EQ(cpu::bf16_dot(), wanted() == "avx512bf16"          ? cpu::Bf16Dot::native
                             : wanted() == "bf16_dot_emulated" ? cpu::Bf16Dot::emulated
                                                               : cpu::Bf16Dot::none);
}

}  // namespace
}  // namespace saccade::test

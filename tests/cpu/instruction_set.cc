#include <saccade/info.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

namespace saccade::test {
namespace {

// Skips everything if SACCADE_CPU_TARGET asks for what this machine lacks.
class InstructionSet : public testing::Environment {
 public:
  void SetUp() override {
    const char* wanted = std::getenv("SACCADE_CPU_TARGET");
    if (wanted == nullptr) return;
    const std::vector<std::string> available = cpu_targets();
    if (std::find(available.begin(), available.end(), wanted) == available.end()) {
      GTEST_SKIP() << "not run: this machine lacks " << wanted;
    }
  }
};

[[maybe_unused]] const testing::Environment* const kInstructionSet =
    testing::AddGlobalTestEnvironment(new InstructionSet);

}  // namespace
}  // namespace saccade::test

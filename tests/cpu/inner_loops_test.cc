#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// The machine code of the matrix product, as objdump shows it. Twice GCC found ways to lose a third
// of the speed there (micro_kernel-inl.h says which); results stay right, so only the code shows.

namespace saccade::test {
namespace {

struct Instruction {
  std::uint64_t address;
  std::string text;

  bool starts_with(std::string_view prefix) const { return text.starts_with(prefix); }
  // Its operands, without the name of the function that a jump stays in.
  std::string_view operands() const { return std::string_view(text).substr(0, text.find('<')); }
  bool is_fma() const {
    return starts_with("vfmadd") || starts_with("vfnmadd") || starts_with("vdpbf16ps");
  }
  bool reads_memory() const {
    const bool is_store = starts_with("vmov") && operands().ends_with(")");
    return operands().find('(') != std::string_view::npos && !is_store && !starts_with("lea") &&
           !starts_with("nop") && !starts_with("prefetch");
  }
  bool touches_stack() const { return operands().find("(%rsp") != std::string_view::npos; }
};

struct Function {
  std::string name;
  std::vector<Instruction> body;
};

struct Loop {
  std::size_t begin, end;  // indices of instructions, both included
};

// "  220:\tvmovaps (%r9),%ymm1"
std::optional<Instruction> parse_instruction(std::string_view line) {
  const std::size_t colon = line.find(":\t");
  if (!line.starts_with(' ') || colon == std::string_view::npos) return std::nullopt;
  const std::string address(line.substr(0, colon));
  return Instruction{std::strtoull(address.c_str(), nullptr, 16),
                     std::string(line.substr(colon + 2))};
}

// The functions of the library whose name contains `part`.
std::vector<Function> disassemble(std::string_view part) {
  const std::string command = SACCADE_OBJDUMP " --disassemble --demangle --no-show-raw-insn ";
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen((command + SACCADE_LIBRARY).c_str(), "r"),
                                                   pclose);
  std::vector<Function> functions;
  bool is_wanted = false;
  std::string line;
  for (int c = std::fgetc(pipe.get()); c != EOF; c = std::fgetc(pipe.get())) {
    if (c != '\n') {
      line.push_back(static_cast<char>(c));
      continue;
    }
    if (line.ends_with(">:")) {
      is_wanted = line.find(part) != std::string::npos;
      if (is_wanted) functions.push_back({line, {}});
    } else if (is_wanted) {
      if (auto instruction = parse_instruction(line)) {
        functions.back().body.push_back(std::move(*instruction));
      }
    }
    line.clear();
  }
  return functions;
}

// Loops that hold no other one: what a jump backwards spans.
std::vector<Loop> innermost_loops(const std::vector<Instruction>& body) {
  std::vector<Loop> loops;
  for (std::size_t i = 0; i < body.size(); ++i) {
    if (!body[i].starts_with("j")) continue;
    const std::size_t operand = body[i].text.find_first_of(" \t");
    if (operand == std::string::npos) continue;
    const std::uint64_t target = std::strtoull(body[i].text.c_str() + operand, nullptr, 16);
    const auto found = std::ranges::find(body, target, &Instruction::address);
    const auto begin = static_cast<std::size_t>(found - body.begin());
    if (begin <= i) loops.push_back({begin, i});
  }
  std::vector<Loop> innermost;
  for (const Loop& loop : loops) {
    const bool holds_another = std::ranges::any_of(loops, [&](const Loop& other) {
      return other.begin >= loop.begin && other.end <= loop.end &&
             (other.begin != loop.begin || other.end != loop.end);
    });
    if (!holds_another) innermost.push_back(loop);
  }
  return innermost;
}

class InnerLoops : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
#if !defined(__x86_64__)
    GTEST_SKIP() << "written for the instructions of x86-64";
#elif !defined(__OPTIMIZE__) || defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "says nothing about code that is not optimised, or instrumented";
#endif
  }
};

// Of the instruction that multiplies pairs of bf16; nobody runs it for its speed.
bool is_emulation(const std::string& target, const Function& function) {
  return target == "N_AVX2" && function.name.find("Bf16Pairs") != std::string::npos;
}

// See Product::kB, the first Panels in the arguments of the template.
bool reads_packed_panels(const Function& function) {
  return function.name.find("Panels)0, ") != std::string::npos;
}

constexpr int kFmasOfFourRows = 8;

// Rows come in sixes, two vectors wide: 12 FMAs for 2 loads of vectors and 6 broadcasts, eight
// steps at a time. Blocks of four rows may load more for each FMA, but not spill either; those of
// up to three, the last ones of a few head sizes, may do both. What else there is takes issue
// slots, of which a thread beside another one on its core has half: one and a half a step where
// panels follow each other, three where they do not.
TEST_P(InnerLoops, OfTheProductLoadLittleAndNeverSpill) {
  const std::string target = GetParam();
  const std::vector<Function> functions = disassemble(target + "::multiply<");
  ASSERT_FALSE(functions.empty());
  for (const Function& function : functions) {
    if (is_emulation(target, function)) continue;
    SCOPED_TRACE(function.name);
    int full_loops = 0;
    for (const Loop& loop : innermost_loops(function.body)) {
      int fmas = 0, loads = 0, spills = 0;
      for (std::size_t i = loop.begin; i <= loop.end; ++i) {
        fmas += function.body[i].is_fma();
        loads += function.body[i].reads_memory();
        spills += function.body[i].touches_stack();
      }
      if (fmas == 0) continue;
      const int others = static_cast<int>(loop.end - loop.begin + 1) - fmas - loads;
      const auto description = testing::Message() << fmas << " FMAs, " << loads << " loads, "
                                                  << others << " other instructions at " << std::hex
                                                  << function.body[loop.begin].address;
      if (fmas >= kFmasOfFourRows) EXPECT_EQ(spills, 0) << description;
      if (fmas != 8 * 12) continue;
      EXPECT_LE(loads, 8 * 8) << description;
      EXPECT_LE(others, reads_packed_panels(function) ? 12 : 24) << description;
      ++full_loops;
    }
    EXPECT_GE(full_loops, 1) << "no loop of eight steps of 12 FMAs to look at";
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, InnerLoops, testing::Values("N_AVX2", "N_AVX3"));

}  // namespace
}  // namespace saccade::test

#include "cpu/targets.h"
#include "support/attention.h"
#include "support/comparison.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16};
const Context kCpu{.backend = Backend::cpu};

std::int64_t count_nan(const Tensor& tensor) {
  const std::vector<double> values = tensor.values();
  return std::count_if(values.begin(), values.end(), [](double x) { return std::isnan(x); });
}

bool is_zero(const Tensor& tensor) {
  const std::vector<double> values = tensor.values();
  return std::all_of(values.begin(), values.end(), [](double x) { return x == 0; });
}

void expect_agreement(const Problem& problem) {
  const ForwardResult forward = run_forward(kCpu, problem);
  expect_close(problem, forward, reference_forward(problem));
  expect_close_to_reference(problem, forward, run_backward(kCpu, problem, forward));
}

// A quiet and a signalling NaN with payloads, of either sign.
std::pair<std::uint32_t, std::uint32_t> nan_bits(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return {0x7C01, 0xFE33};
    case DType::bf16:
      return {0x7F81, 0xFFD2};
    default:
      return {0x7F800001, 0xFFC12345};
  }
}

// The comparison wants NaN exactly where the reference has it: in the rows that visit it.
TEST(CpuSpecialValuesTest, NaNReachesWhatItMustAndNothingElse) {
  Random random(1);
  const ProblemShape shape{.batch = 2,
                           .q_heads = 4,
                           .k_heads = 2,
                           .q_len = 150,
                           .k_len = 200,
                           .block_q = 64,
                           .block_k = 64};
  for (const DType dtype : kDTypes) {
    for (Tensor Problem::*poisoned : {&Problem::q, &Problem::k, &Problem::v, &Problem::dout}) {
      for (const std::uint32_t bits : {nan_bits(dtype).first, nan_bits(dtype).second}) {
        Problem problem(shape, dtype, random);
        problem.tiles = random_mask(shape.grid(), 0.6, random);
        for (std::int64_t head = 0; head < 4; ++head) problem.tiles->set(0, head, 0, 0);
        problem.wants_scores = true;
        problem.threshold = -1.0;
        spread_scores(problem, random);
        problem.set_lengths({150, 77}, {101, 200});
        if (random.chance(0.5)) problem.ref = random_ref(problem, random);
        Tensor& tensor = problem.*poisoned;
        const std::int64_t token = random.integer(0, 63);
        tensor.set_bits(tensor.index(0, 1, token, random.integer(0, 15)), bits);
        SCOPED_TRACE(testing::Message() << problem.describe() << ", bits " << std::hex << bits);

        const ForwardResult forward = run_forward(kCpu, problem);
        const Gradients gradients = run_backward(kCpu, problem, forward);
        expect_close(problem, forward, reference_forward(problem));
        expect_close_to_reference(problem, forward, gradients);
        EXPECT_GT(count_nan(gradients.dq), 0);
        EXPECT_LT(count_nan(gradients.dq), gradients.dq.element_count());
      }
    }
  }
}

// With one key out is v, whatever its bits: zeros, subnormals, infinities and NaN. Instructions
// that multiply pairs of bf16 take subnormal numbers for 0.
TEST(CpuSpecialValuesTest, Every16BitValuePassesThrough) {
  Random random(7);
  for (const DType dtype : {DType::f16, DType::bf16}) {
    Problem problem({.q_heads = 256, .k_heads = 256, .q_len = 3, .k_len = 1, .head_dim = 256},
                    dtype, random);
    for (std::uint32_t bits = 0; bits <= 0xFFFF; ++bits) problem.v.set_bits(bits, bits);
    const ForwardResult forward = run_forward(kCpu, problem);
    for (std::int64_t i = 0; i < forward.out.element_count(); ++i) {
      const double got = forward.out.get(i);
      double want = problem.v.get(i / (3 * 256) * 256 + i % 256);
      const bool flushes = dtype == DType::bf16 && cpu::bf16_dot() != cpu::Bf16Dot::none;
      if (flushes && std::abs(want) < 0x1p-126) want = 0;
      ASSERT_TRUE(got == want || (std::isnan(got) && std::isnan(want)))
          << name_of(dtype) << ' ' << want << " became " << got;
    }
  }
}

// Also one whose payload rounding would carry into the sign.
TEST(CpuSpecialValuesTest, NaNInStatisticsReachesTheGradients) {
  Random random(8);
  for (const DType dtype : kDTypes) {
    for (const bool in_lse : {true, false}) {
      for (const std::uint32_t bits : {0x7F800001u, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
        Problem problem({.q_len = 40, .k_len = 70, .head_dim = 16}, dtype, random);
        ForwardResult forward = run_forward(kCpu, problem);
        (in_lse ? forward.lse : problem.dlse).set_bits(7, bits);
        SCOPED_TRACE(testing::Message() << problem.describe() << ", bits " << std::hex << bits);
        const Gradients gradients = run_backward(kCpu, problem, forward);
        EXPECT_EQ(count_nan(gradients.dq), 16);
        EXPECT_EQ(count_nan(gradients.dk), 70 * 16);
        EXPECT_EQ(count_nan(gradients.dv), in_lse ? 70 * 16 : 0);
      }
    }
  }
}

// Rows of tiles are computed in panels of queries; those that the last one lacks count for nothing,
// even beside a key with which they would give NaN.
TEST(CpuSpecialValuesTest, MissingQueriesAddNothingToTheGradientsOfAnInfiniteKey) {
  Random random(9);
  for (const DType dtype : kDTypes) {
    for (const std::int64_t queries : {1, 5, 9, 33}) {
      Problem problem({.q_len = queries, .k_len = 6, .head_dim = 16}, dtype, random);
      for (std::int64_t i = 0; i < queries; ++i) problem.q.set(problem.q.index(0, 0, i, 3), 1);
      problem.k.set(problem.k.index(0, 0, 2, 3), -kInfinity);
      SCOPED_TRACE(problem.describe());
      const Gradients gradients = run_backward(kCpu, problem, run_forward(kCpu, problem));
      EXPECT_EQ(count_nan(gradients.dk), 0);
      EXPECT_EQ(count_nan(gradients.dv), 0);
    }
  }
}

TEST(CpuSpecialValuesTest, HugeLogitsDoNotOverflow) {
  Random random(2);
  for (const DType dtype : kDTypes) {
    for (const double largest : {100.0, 1e3, 1e4}) {
      for (const double sign : {1.0, -1.0}) {
        const ProblemShape shape{.q_len = 100, .k_len = 150, .head_dim = 32};
        Problem problem(shape, dtype, random);
        problem.scale = 1.0;
        problem.scale = sign * largest / problem.max_logit();
        problem.wants_scores = true;
        SCOPED_TRACE(problem.describe());
        expect_agreement(problem);
        const ForwardResult forward = run_forward(kCpu, problem);
        EXPECT_EQ(count_nan(forward.out), 0);
        EXPECT_EQ(count_nan(forward.lse), 0);
      }
    }
  }
}

// A tile far below the maximum that an earlier tile set, and one far above it.
TEST(CpuSpecialValuesTest, TheMaximumMayJump) {
  Random random(3);
  for (const double jump : {30.0, 300.0, 3000.0}) {
    for (const VisitOrder order : {VisitOrder::linear, VisitOrder::reversed}) {
      Problem problem({.q_len = 33, .k_len = 192}, DType::f32, random);
      problem.scale = 0.25;
      problem.order = order;
      problem.wants_scores = true;
      problem.threshold = -100.0;
      for (std::int64_t query = 0; query < 33; ++query) {
        problem.q.set(problem.q.index(0, 0, query), 4);
      }
      for (std::int64_t key = 0; key < 192; ++key) {
        problem.k.set(problem.k.index(0, 0, key), static_cast<double>(key / 64) * jump);
      }
      SCOPED_TRACE(problem.describe());
      expect_agreement(problem);
    }
  }
}

TEST(CpuSpecialValuesTest, RowsWhoseLogitsAreAllMinusInfinityAreEmpty) {
  Random random(4);
  for (const DType dtype : kDTypes) {
    Problem problem({.q_len = 33, .k_len = 70}, dtype, random);
    problem.q.generate([&] { return 0.5 + random.uniform(); });
    problem.k.generate([] { return -kInfinity; });
    const ForwardResult forward = run_forward(kCpu, problem);
    EXPECT_TRUE(is_zero(forward.out));
    for (const double lse : forward.lse.values()) EXPECT_EQ(lse, -kInfinity);
  }
}

TEST(CpuSpecialValuesTest, LogitsOfMinusInfinityHaveNoWeight) {
  Random random(5);
  for (const bool has_ref : {false, true}) {
    Problem problem({.q_len = 128, .k_len = 300}, DType::f32, random);
    problem.q.generate([&] { return 0.5 + random.uniform(); });
    for (std::int64_t key = 0; key < 300; ++key) {
      if (key >= 130 && random.chance(0.7)) continue;  // two whole tiles and some keys
      for (std::int64_t d = 0; d < 16; ++d) {
        problem.k.set(problem.k.index(0, 0, key, d), -kInfinity);
      }
    }
    problem.wants_scores = true;
    if (has_ref) problem.ref = random_ref(problem, random);
    for (const double threshold : {-2.0, -kInfinity}) {
      problem.threshold = threshold;
      SCOPED_TRACE(problem.describe());
      expect_close(problem, run_forward(kCpu, problem), reference_forward(problem));
    }
  }
}

// dP - delta is exactly zero: out is v, and delta is summed up in the order of dP.
TEST(CpuSpecialValuesTest, AQueryWithASingleKeyHasNoGradient) {
  Random random(6);
  for (const DType dtype : kDTypes) {
    for (const std::int64_t head_dim : {16, 64, 80, 256}) {
      const ProblemShape shape{.q_heads = 2,
                               .k_heads = 1,
                               .q_len = 150,
                               .k_len = 65,
                               .head_dim = head_dim,
                               .block_q = 64,
                               .block_k = 64};
      Problem by_mask(shape, dtype, random);
      by_mask.dlse = {};
      by_mask.tiles = TileMask(shape.grid());
      for (std::int64_t row = 0; row < by_mask.tiles->grid().rows(); ++row) {
        by_mask.tiles->set_ranges(row, std::vector<TileRange>{{1, 2}});  // key 64 alone
      }
      Problem by_length = by_mask;
      by_length.tiles = {};
      by_length.set_lengths({150}, {1});
      for (const Problem& problem : {by_mask, by_length}) {
        SCOPED_TRACE(problem.describe());
        const ForwardResult forward = run_forward(kCpu, problem);
        const Gradients gradients = run_backward(kCpu, problem, forward);
        EXPECT_TRUE(is_zero(gradients.dq));
        EXPECT_TRUE(is_zero(gradients.dk));
        EXPECT_FALSE(is_zero(gradients.dv));
      }
    }
  }
}

}  // namespace
}  // namespace saccade::test

#include "support/attention.h"
#include "support/comparison.h"
#include "support/token_logits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const Context kReference{.backend = Backend::reference};

// A few hundred double operations per element, of values around 1.
constexpr double kRounding = 1e-12;

// The definition without tiles or visits: softmax over the tokens that a query attends to.
ForwardResult softmax_by_tokens(const Problem& problem) {
  ForwardResult result(problem);
  result.out.generate([] { return 0.0; });
  const ProblemShape& shape = problem.shape;
  for (std::int64_t b = 0; b < shape.batch; ++b) {
    for (std::int64_t h = 0; h < shape.q_heads; ++h) {
      const Matrix s = token_logits(problem, b, h);
      const std::int64_t key_head = h * shape.k_heads / shape.q_heads;
      for (std::int64_t i = 0; i < shape.q_len; ++i) {
        const double maximum = *std::max_element(s[i], s[i] + s.columns);
        double sum = 0;
        for (std::int64_t j = 0; j < s.columns; ++j) {
          if (problem.attends(b, h, i, j)) sum += std::exp(s[i][j] - maximum);
        }
        result.lse.set(result.lse.index(b, h, i), sum > 0 ? maximum + std::log(sum) : -kInfinity);
        for (std::int64_t j = 0; j < s.columns; ++j) {
          if (!problem.attends(b, h, i, j)) continue;
          const double weight = std::exp(s[i][j] - maximum) / sum;
          for (std::int64_t d = 0; d < shape.head_dim; ++d) {
            const std::int64_t at = result.out.index(b, h, i, d);
            const double value = problem.v.get(problem.v.index(b, key_head, j, d));
            result.out.set(at, result.out.get(at) + weight * value);
          }
        }
      }
    }
  }
  return result;
}

Problem small_problem(std::uint64_t seed) {
  Random random(seed);
  ProblemShape shape{.batch = random.integer(1, 2),
                     .k_heads = random.integer(1, 2),
                     .q_len = random.integer(1, 200),
                     .k_len = random.integer(1, 200),
                     .head_dim = random.integer(1, 5),
                     .block_q = random.pick({64, 128}),
                     .block_k = random.pick({64, 128})};
  shape.q_heads = shape.k_heads * random.integer(1, 3);
  Problem problem(shape, DType::f64, random, random.pick({Layout::bhsd, Layout::padded}));
  if (random.chance(0.8)) problem.tiles = random_mask(shape.grid(), 0.5, random);
  if (random.chance(0.5)) problem.scale = random.pick({-1.0, 0.0, 3.0});
  if (random.chance(0.5)) {
    std::vector<std::int64_t> queries, keys;
    for (std::int64_t b = 0; b < shape.batch; ++b) {
      queries.push_back(random.integer(0, shape.q_len));
      keys.push_back(random.integer(0, shape.k_len));
    }
    problem.set_lengths(queries, keys);
  }
  return problem;
}

TEST(ReferenceForwardTest, IsSoftmaxOverTheTokensThatAQueryAttendsTo) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    const Problem problem = small_problem(seed);
    SCOPED_TRACE(problem.describe());
    const ForwardResult got = run_forward(kReference, problem);
    const ForwardResult want = softmax_by_tokens(problem);
    EXPECT_TRUE(is_within(got.out, want.out, kRounding));
    EXPECT_TRUE(is_within(got.lse, want.lse, kRounding));
    EXPECT_TRUE(got.out.gaps_are_untouched());
    EXPECT_TRUE(got.lse.gaps_are_untouched());
  }
}

TEST(ReferenceForwardTest, IsComputedInDoubleAndRoundedOnce) {
  Random random(1);
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32}) {
    const Problem problem({.q_len = 70, .k_len = 90, .head_dim = 8}, dtype, random);
    const ForwardResult got = run_forward(kReference, problem);
    const ForwardResult exact = reference_forward(problem);
    EXPECT_EQ(exact.out.dtype(), DType::f64);
    EXPECT_TRUE(is_same(got.out, exact.out.converted(dtype)));
    EXPECT_TRUE(is_same(got.lse, exact.lse.converted(DType::f32)));
  }
}

TEST(ReferenceForwardTest, RowsWithoutAnActiveTileAreEmpty) {
  Random random(2);
  const ProblemShape shape{.q_heads = 2, .k_heads = 1, .q_len = 130, .k_len = 100, .head_dim = 4};
  Problem problem(shape, DType::f64, random);
  problem.tiles = TileMask::full(shape.grid());
  problem.tiles->set_ranges(problem.tiles->view().row_index(0, 1, 0), {});
  const ForwardResult result = run_forward(kReference, problem);
  for (std::int64_t h = 0; h < 2; ++h) {
    for (std::int64_t i = 0; i < shape.q_len; ++i) {
      const bool is_empty = h == 1 && i < shape.block_q;
      EXPECT_EQ(result.lse.get(result.lse.index(0, h, i)) == -kInfinity, is_empty);
      EXPECT_EQ(result.out.get(result.out.index(0, h, i)) == 0, is_empty);
    }
  }
}

TEST(ReferenceForwardTest, LseIsOptional) {
  Random random(3);
  const Problem problem({.q_len = 9, .k_len = 7, .head_dim = 3}, DType::f32, random);
  ForwardResult result(problem);
  AttentionForwardOutputs outputs = result.outputs();
  outputs.lse = {};
  attention_forward(kReference, problem.inputs(), {}, outputs);
  EXPECT_TRUE(is_same(result.out, run_forward(kReference, problem).out));
}

TEST(ReferenceForwardTest, LogitsOfAnySizeGiveFiniteResults) {
  Random random(4);
  Problem problem({.q_len = 20, .k_len = 30, .head_dim = 4}, DType::f64, random);
  for (const double scale : {1e3, -1e3, 1e5}) {
    problem.scale = scale;
    const ForwardResult got = run_forward(kReference, problem);
    const ForwardResult want = softmax_by_tokens(problem);
    EXPECT_TRUE(is_within(got.lse, want.lse, kRounding * std::abs(scale)));
    EXPECT_TRUE(is_within(got.out, want.out, kRounding * std::abs(scale)));
  }
}

}  // namespace
}  // namespace saccade::test

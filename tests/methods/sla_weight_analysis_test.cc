#include "support/expect_error.h"
#include "support/problem.h"

#include <saccade/weight_analysis.h>

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

namespace saccade::sla {
namespace {

using test::expect_error;
using test::Layout;
using test::Problem;
using test::Random;

std::vector<WeightAnalysis> analyse(const Problem& problem, const Context& context = {}) {
  return analyse_weights(context,
                         {.q = problem.q.view(), .k = problem.k.view(), .v = problem.v.view()},
                         {.scale = problem.scale});
}

// The weights of one head in double.
std::vector<std::vector<double>> weights_of(const Problem& problem,
                                            std::int64_t batch,
                                            std::int64_t head) {
  const auto& shape = problem.shape;
  const std::int64_t key_head = head / (shape.q_heads / shape.k_heads);
  std::vector<std::vector<double>> rows(shape.q_len, std::vector<double>(shape.k_len));
  for (std::int64_t query = 0; query < shape.q_len; ++query) {
    double sum = 0;
    for (std::int64_t key = 0; key < shape.k_len; ++key) {
      double dot = 0;
      for (std::int64_t d = 0; d < shape.head_dim; ++d) {
        dot += problem.q.get(problem.q.index(batch, head, query, d)) *
               problem.k.get(problem.k.index(batch, key_head, key, d));
      }
      sum += rows[query][key] = std::exp(problem.used_scale() * dot);
    }
    for (double& weight : rows[query]) weight /= sum;
  }
  return rows;
}

using Choice = std::function<bool(double weight)>;

struct Expected {
  double share = 0, mass = 0, error = 0;
};

// What the chosen weights are and do.
Expected measure(const Problem& problem,
                 std::int64_t batch,
                 std::int64_t head,
                 const Choice& is_chosen) {
  const auto& shape = problem.shape;
  const std::int64_t key_head = head / (shape.q_heads / shape.k_heads);
  const auto rows = weights_of(problem, batch, head);
  Expected expected;
  double difference = 0, out = 0;
  for (const std::vector<double>& row : rows) {
    std::vector<double> chosen(shape.head_dim), all(shape.head_dim);
    for (std::int64_t key = 0; key < shape.k_len; ++key) {
      const bool counts = is_chosen(row[key]);
      expected.share += counts;
      expected.mass += counts ? row[key] : 0;
      for (std::int64_t d = 0; d < shape.head_dim; ++d) {
        const double product = row[key] * problem.v.get(problem.v.index(batch, key_head, key, d));
        all[d] += product;
        chosen[d] += counts ? product : 0;
      }
    }
    for (std::int64_t d = 0; d < shape.head_dim; ++d) {
      difference += std::abs(chosen[d]);
      out += std::abs(all[d]);
    }
  }
  expected.share /= static_cast<double>(shape.q_len * shape.k_len);
  expected.mass /= static_cast<double>(shape.q_len);
  expected.error = difference / out;
  return expected;
}

// Of the chosen weights, by many steps of power iteration.
double stable_rank(const Problem& problem,
                   std::int64_t batch,
                   std::int64_t head,
                   const Choice& is_chosen) {
  auto rows = weights_of(problem, batch, head);
  double squares = 0, norm = 0;
  for (auto& row : rows) {
    for (double& weight : row) {
      if (!is_chosen(weight)) weight = 0;
      squares += weight * weight;
    }
  }
  std::vector<double> x(problem.shape.k_len, 1.0);
  for (int step = 0; step < 500; ++step) {
    std::vector<double> next(x.size());
    for (const auto& row : rows) {
      double dot = 0;
      for (std::size_t key = 0; key < x.size(); ++key) dot += row[key] * x[key];
      for (std::size_t key = 0; key < x.size(); ++key) next[key] += row[key] * dot;
    }
    norm = 0;
    for (const double element : next) norm += element * element;
    norm = std::sqrt(norm);
    for (double& element : next) element /= norm;
    x = next;
  }
  return squares / norm;
}

TEST(WeightAnalysisTest, AgreesWithEveryWeightInDouble) {
  Random random(1);
  for (const auto& [dtype, layout] :
       {std::pair(DType::f32, Layout::bshd), {DType::bf16, Layout::padded}}) {
    Problem problem({.batch = 2, .q_heads = 2, .k_heads = 1, .q_len = 67, .k_len = 131}, dtype,
                    random, layout);
    problem.scale = 1.5;
    const std::vector<WeightAnalysis> heads = analyse(problem);
    ASSERT_EQ(heads.size(), 4u);
    const Choice is_large = [](double weight) { return weight > 1.0 / 131; };
    const Choice is_small = [](double weight) { return weight < 0.01 / 131; };
    for (std::int64_t i = 0; i < 4; ++i) {
      const auto expect_part = [&](const WeightPart& part, const Choice& choice) {
        const Expected expected = measure(problem, i / 2, i % 2, choice);
        EXPECT_NEAR(part.share, expected.share, 3e-4);  // two or three weights at the limit
        EXPECT_NEAR(part.mass, expected.mass, 1e-4);
        EXPECT_NEAR(part.error, expected.error, 1e-4);
        EXPECT_GT(part.share, 0.01);
      };
      expect_part(heads[i].large, is_large);
      expect_part(heads[i].small, is_small);
      expect_part(heads[i].middling, [&](double w) { return !is_large(w) && !is_small(w); });
      const Choice is_other = std::not_fn(is_large);
      EXPECT_NEAR(heads[i].error_of_large_alone, measure(problem, i / 2, i % 2, is_other).error,
                  1e-4);
      const auto expect_rank = [&](double rank, const Choice& choice) {
        const double expected = stable_rank(problem, i / 2, i % 2, choice);
        EXPECT_GE(rank, expected * (1 - 1e-4));
        EXPECT_LE(rank, expected * 1.02);
      };
      expect_rank(heads[i].rank, [](double) { return true; });
      expect_rank(heads[i].rank_of_large, is_large);
      expect_rank(heads[i].rank_of_others, is_other);
    }
  }
}

// Queries and keys fall into groups by turns, and see those of their own by e^4 more than others.
TEST(WeightAnalysisTest, GroupsAreTheRankOfWhatIsLarge) {
  Random random(2);
  Problem problem({.q_len = 96, .k_len = 160}, DType::f32, random);
  problem.scale = 1;
  for (std::int64_t i = 0; i < problem.q.element_count(); ++i) {
    problem.q.set(i, i % 16 == i / 16 % 4 ? 4 : 0);
  }
  for (std::int64_t i = 0; i < problem.k.element_count(); ++i) {
    problem.k.set(i, i % 16 == i / 16 % 4 ? 1 : 0);
  }
  const WeightAnalysis head = analyse(problem).front();
  const double own = std::exp(4) / (std::exp(4) + 3);
  EXPECT_NEAR(head.large.share, 0.25, 1e-9);
  EXPECT_NEAR(head.large.mass, own, 1e-5);
  EXPECT_NEAR(head.middling.share, 0.75, 1e-9);
  EXPECT_EQ(head.small.share, 0);
  EXPECT_EQ(head.small.error, 0);
  EXPECT_NEAR(head.rank_of_large, 4, 1e-3);
  // Three groups out of four in every row: singular values 3, 1, 1, 1.
  EXPECT_NEAR(head.rank_of_others, 12.0 / 9, 1e-3);
}

TEST(WeightAnalysisTest, EqualRowsHaveRankOne) {
  Random random(3);
  Problem problem({.q_len = 130, .k_len = 70}, DType::f16, random);
  for (std::int64_t i = 0; i < problem.q.element_count(); ++i) problem.q.set(i, i % 16 / 4.0);
  const WeightAnalysis head = analyse(problem).front();
  EXPECT_NEAR(head.rank, 1, 1e-4);
  EXPECT_NEAR(head.rank_of_large, 1, 1e-4);
  EXPECT_NEAR(head.rank_of_others, 1, 1e-4);
}

TEST(WeightAnalysisTest, ThreadsChangeNoBit) {
  Random random(4);
  const Problem problem({.q_heads = 2, .k_heads = 2, .q_len = 100, .k_len = 90}, DType::f32,
                        random);
  ThreadPool one(1), three(3);
  const auto alone = analyse(problem, {.executor = &one});
  const auto together = analyse(problem, {.executor = &three});
  for (std::size_t head = 0; head < 2; ++head) {
    EXPECT_EQ(alone[head].rank, together[head].rank);
    EXPECT_EQ(alone[head].rank_of_others, together[head].rank_of_others);
    EXPECT_EQ(alone[head].error_of_large_alone, together[head].error_of_large_alone);
    EXPECT_EQ(alone[head].large.mass, together[head].large.mass);
  }
}

TEST(WeightAnalysisTest, RefusesWhatAttentionRefuses) {
  Random random(5);
  const Problem problem({.q_heads = 3, .k_heads = 2}, DType::f32, random);
  expect_error<InvalidArgument>({"3", "2"}, [&] { analyse(problem); });
  const Problem doubles({}, DType::f64, random);
  expect_error<InvalidArgument>({"f64", "f32"}, [&] { analyse(doubles); });
}

}  // namespace
}  // namespace saccade::sla

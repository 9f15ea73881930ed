#include "support/attention.h"
#include "support/comparison.h"
#include "support/partials.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kRounding = 1e-12;
const Context kReference{.backend = Backend::reference};
const std::vector<std::int64_t> kShape{2, 3, 5, 7};

OwnedPartials random_partials(int count, double empty_share, Random& random) {
  OwnedPartials partials;
  for (int i = 0; i < count; ++i) {
    partials.push_back(random_partial(kShape, DType::f64, Layout::bhsd, random));
    empty_rows(partials.back(), empty_share, random);
  }
  return partials;
}

// Attention over three disjoint sets of tiles, of which some rows of tiles have none.
TEST(ReferenceMergeTest, IsAttentionOverTheUnion) {
  Random random(1);
  const ProblemShape shape{.q_heads = 2,
                           .k_heads = 1,
                           .q_len = 200,
                           .k_len = 500,
                           .head_dim = 3,
                           .block_q = 64,
                           .block_k = 64};
  Problem problem(shape, DType::f64, random);
  const TileMask all = random_mask(shape.grid(), 0.8, random);
  const TileMask first = random_mask(shape.grid(), 0.3, random) &= all;
  const TileMask second = (random_mask(shape.grid(), 0.3, random) &= all) -= first;
  const TileMask third = ((TileMask(all) -= first) -= second);
  OwnedPartials partials;
  for (const TileMask& tiles : {first, second, third}) {
    problem.tiles = tiles;
    const ForwardResult part = run_forward(kReference, problem);
    partials.emplace_back(std::vector{shape.batch, shape.q_heads, shape.q_len, shape.head_dim},
                          DType::f64, Layout::bhsd);
    partials.back().out = part.out;
    partials.back().lse = part.lse;
  }
  problem.tiles = all;
  const ForwardResult want = run_forward(kReference, problem);
  const OwnedPartial got = run_merge(kReference, partials);
  EXPECT_TRUE(is_within(got.out, want.out, kRounding));
  EXPECT_TRUE(is_within(got.lse, want.lse, kRounding));
}

// The out of a row without mass is NaN here, so reading it would show.
TEST(ReferenceMergeTest, PartialsWithoutMassHaveNoWeight) {
  Random random(2);
  OwnedPartials partials = random_partials(2, 0, random);
  const OwnedPartial before = run_merge(kReference, partials);
  for (const std::size_t position : {0, 1, 2}) {
    OwnedPartials with_empty = partials;
    OwnedPartial empty = random_partial(kShape, DType::f64, Layout::bhsd, random);
    empty_rows(empty, 1, random);
    with_empty.insert(with_empty.begin() + position, empty);
    const OwnedPartial after = run_merge(kReference, with_empty);
    EXPECT_TRUE(is_same(after.out, before.out));
    EXPECT_TRUE(is_same(after.lse, before.lse));
  }
}

TEST(ReferenceMergeTest, NothingButEmptyRowsMergeToAnEmptyRow) {
  Random random(3);
  const OwnedPartials partials = random_partials(3, 1, random);
  const OwnedPartial merged = run_merge(kReference, partials);
  for (const double out : merged.out.values()) EXPECT_EQ(out, 0);
  for (const double lse : merged.lse.values()) EXPECT_EQ(lse, -kInfinity);

  const OwnedPartial dmerged = random_partial(kShape, DType::f64, Layout::bhsd, random);
  for (const OwnedPartial& gradient : run_merge_backward(kReference, partials, merged, dmerged)) {
    for (const double dout : gradient.out.values()) EXPECT_EQ(dout, 0);
    for (const double dlse : gradient.lse.values()) EXPECT_EQ(dlse, 0);
  }
}

TEST(ReferenceMergeTest, OnePartialIsItself) {
  Random random(4);
  const OwnedPartials partials = random_partials(1, 0, random);
  const OwnedPartial merged = run_merge(kReference, partials);
  EXPECT_TRUE(is_within(merged.out, partials[0].out, kRounding));
  EXPECT_TRUE(is_within(merged.lse, partials[0].lse, kRounding));
}

TEST(ReferenceMergeTest, LargeLsesNeitherOverflowNorVanish) {
  Random random(5);
  OwnedPartials partials = random_partials(2, 0, random);
  const OwnedPartial before = run_merge(kReference, partials);
  for (const double shift : {1e4, -1e4}) {
    OwnedPartials shifted = partials;
    for (OwnedPartial& partial : shifted) {
      for (std::int64_t i = 0; i < partial.lse.element_count(); ++i) {
        partial.lse.set(i, partial.lse.get(i) + shift);
      }
    }
    // The shift itself rounds the lse to 2e-12.
    EXPECT_TRUE(is_within(run_merge(kReference, shifted).out, before.out, 1e-11));
  }
}

TEST(ReferenceMergeTest, MergesIntoOneOfThePartials) {
  Random random(6);
  for (const std::size_t target : {0, 1, 2}) {
    const OwnedPartials partials = random_partials(3, 0.3, random);
    const OwnedPartial want = run_merge(kReference, partials);
    const std::vector<Partial> views{partials[0].view(), partials[1].view(), partials[2].view()};
    merge_partials(kReference, views, views[target]);
    EXPECT_TRUE(is_same(partials[target].out, want.out));
    EXPECT_TRUE(is_same(partials[target].lse, want.lse));
  }
}

// Central differences; their error is that of reference_backward_test.cc.
TEST(ReferenceMergeTest, BackwardIsTheDerivative) {
  constexpr double kStep = 1e-5;
  Random random(7);
  OwnedPartials partials = random_partials(3, 0.2, random);
  const OwnedPartial dmerged = random_partial(kShape, DType::f64, Layout::bhsd, random);
  const auto loss = [&] {
    const OwnedPartial merged = run_merge(kReference, partials);
    double sum = 0;
    for (std::int64_t i = 0; i < merged.out.element_count(); ++i) {
      sum += merged.out.get(i) * dmerged.out.get(i);
    }
    for (std::int64_t i = 0; i < merged.lse.element_count(); ++i) {
      if (merged.lse.get(i) > -kInfinity) sum += merged.lse.get(i) * dmerged.lse.get(i);
    }
    return sum;
  };
  const OwnedPartials gradients =
      run_merge_backward(kReference, partials, run_merge(kReference, partials), dmerged);
  const auto check = [&](Tensor& tensor, const Tensor& gradient) {
    for (std::int64_t i = 0; i < tensor.element_count(); ++i) {
      const double value = tensor.get(i);
      if (!std::isfinite(value)) {  // a row without mass
        ASSERT_EQ(gradient.get(i), 0);
        continue;
      }
      tensor.set(i, value + kStep);
      const double above = loss();
      tensor.set(i, value - kStep);
      const double below = loss();
      tensor.set(i, value);
      ASSERT_NEAR(gradient.get(i), (above - below) / (2 * kStep), 2e-9) << "element " << i;
    }
  };
  for (std::size_t p = 0; p < partials.size(); ++p) {
    check(partials[p].out, gradients[p].out);
    check(partials[p].lse, gradients[p].lse);
  }
}

}  // namespace
}  // namespace saccade::test

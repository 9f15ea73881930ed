#include "support/comparison.h"
#include "support/partials.h"

#include <gtest/gtest.h>

#include <limits>

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
const Context kCpu{.backend = Backend::cpu};
const Context kReference{.backend = Backend::reference};

// Of unit-normal lse, so that sums and differences of order 1 decide.
constexpr double kMaxLse = 5;

struct Case {
  explicit Case(std::uint64_t seed) : random(seed) {
    const std::vector<std::int64_t> shape{random.integer(1, 2), random.integer(1, 3),
                                          random.length(150), random.length(70)};
    dtype = random.pick({DType::f32, DType::f16, DType::bf16});
    const Layout layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded});
    const std::int64_t count = random.integer(1, 4);
    for (std::int64_t i = 0; i < count; ++i) {
      partials.push_back(random_partial(shape, dtype, layout, random));
      empty_rows(partials.back(), random.pick({0.0, 0.3, 1.0}), random);
    }
    dmerged = {random_partial(shape, dtype, layout, random)};
  }

  Random random;
  DType dtype;
  OwnedPartials partials;
  OwnedPartials dmerged;  // one
};

TEST(CpuMergeTest, AgreesWithTheReference) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const Case test(seed);
    const OwnedPartial got = run_merge(kCpu, test.partials);
    const OwnedPartial want = run_merge(kReference, in_f64(test.partials));
    EXPECT_TRUE(is_close(got.out, want.out, forward_tolerance(test.dtype, 0)));
    EXPECT_TRUE(is_within(got.lse, want.lse, lse_tolerance(kMaxLse)));
    EXPECT_TRUE(got.out.gaps_are_untouched());
    EXPECT_TRUE(got.lse.gaps_are_untouched());
  }
}

TEST(CpuMergeTest, GradientsAgreeWithTheReference) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const Case test(seed);
    const OwnedPartial merged = run_merge(kCpu, test.partials);
    const OwnedPartials got = run_merge_backward(kCpu, test.partials, merged, test.dmerged[0]);
    const OwnedPartials want = run_merge_backward(kReference, in_f64(test.partials),
                                                  merged.in_f64(), test.dmerged[0].in_f64());
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_TRUE(is_close(got[i].out, want[i].out, gradient_tolerance(test.dtype, 0)));
      // f32 whatever the dtype, and computed from the same 16-bit values.
      EXPECT_TRUE(is_close(got[i].lse, want[i].lse, gradient_tolerance(DType::f32, 0)));
      EXPECT_TRUE(got[i].out.gaps_are_untouched());
      EXPECT_TRUE(got[i].lse.gaps_are_untouched());
    }
  }
}

TEST(CpuMergeTest, AnAbsentDlseIsZero) {
  Random random(1);
  const std::vector<std::int64_t> shape{1, 2, 30, 17};
  const OwnedPartials partials{random_partial(shape, DType::f32, Layout::bhsd, random),
                               random_partial(shape, DType::f32, Layout::bhsd, random)};
  const OwnedPartial merged = run_merge(kCpu, partials);
  OwnedPartial dmerged = random_partial(shape, DType::f32, Layout::bhsd, random);
  dmerged.lse.generate([] { return 0.0; });
  const OwnedPartials zero = run_merge_backward(kCpu, partials, merged, dmerged);
  dmerged.lse = {};
  const OwnedPartials absent = run_merge_backward(kCpu, partials, merged, dmerged);
  for (std::size_t i = 0; i < partials.size(); ++i) {
    EXPECT_TRUE(is_same(absent[i].out, zero[i].out));
    EXPECT_TRUE(is_same(absent[i].lse, zero[i].lse));
  }
}

TEST(CpuMergeTest, MergesIntoOneOfThePartials) {
  for (std::uint64_t seed = 300; seed < 330; ++seed) {
    const Case test(seed);
    const OwnedPartial want = run_merge(kCpu, test.partials);
    for (std::size_t target = 0; target < test.partials.size(); ++target) {
      const OwnedPartials partials = test.partials;
      std::vector<Partial> views;
      for (const OwnedPartial& partial : partials) views.push_back(partial.view());
      merge_partials(kCpu, views, views[target]);
      EXPECT_TRUE(is_same(partials[target].out, want.out));
      EXPECT_TRUE(is_same(partials[target].lse, want.lse));
    }
  }
}

TEST(CpuMergeTest, LargeLsesNeitherOverflowNorVanish) {
  Random random(2);
  const std::vector<std::int64_t> shape{1, 1, 40, 16};
  for (const double level : {1e4, -1e4}) {
    OwnedPartials partials;
    for (int i = 0; i < 3; ++i) {
      partials.push_back(random_partial(shape, DType::f32, Layout::bhsd, random));
      partials.back().lse.generate([&] { return level + 100 * random.normal(); });
    }
    const OwnedPartial got = run_merge(kCpu, partials);
    const OwnedPartial want = run_merge(kReference, in_f64(partials));
    EXPECT_TRUE(is_close(got.out, want.out, forward_tolerance(DType::f32, std::abs(level))));
    EXPECT_TRUE(is_within(got.lse, want.lse, lse_tolerance(std::abs(level))));
  }
}

TEST(CpuMergeTest, NaNReachesItsRowAndNothingElse) {
  Random random(3);
  const std::vector<std::int64_t> shape{1, 2, 70, 24};
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    OwnedPartials partials;
    for (int i = 0; i < 3; ++i) {
      partials.push_back(random_partial(shape, dtype, Layout::bhsd, random));
      empty_rows(partials.back(), 0.3, random);
    }
    partials[1].lse.set_bits(5, 0xFFC12345);
    partials[2].lse.set(77, 0);
    partials[2].out.set_bits(77 * 24 + 3, dtype == DType::f32 ? 0x7F800001 : 0x7FC1);
    const OwnedPartial got = run_merge(kCpu, partials);
    const OwnedPartial want = run_merge(kReference, in_f64(partials));
    EXPECT_TRUE(std::isnan(want.lse.get(5)));
    EXPECT_TRUE(std::isnan(want.out.get(77 * 24 + 3)));
    EXPECT_TRUE(is_close(got.out, want.out, forward_tolerance(dtype, 0)));
    EXPECT_TRUE(is_within(got.lse, want.lse, lse_tolerance(kMaxLse)));
  }
}

}  // namespace
}  // namespace saccade::test

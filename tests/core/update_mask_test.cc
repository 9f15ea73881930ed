#include "support/comparison.h"
#include "support/problem.h"

#include <saccade/update_mask.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

namespace saccade::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// One step's state. Marks and scores say different things.
struct Step {
  Step(const TileGrid& grid, Random& random)
      : mask(random_mask(grid, 0.5, random)),
        computed(random_mask(grid, 0.5, random)),
        marks(random_mask(grid, 0.5, random)),
        scores(DType::f32, {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()}) {
    scores.generate([&] { return random.chance(0.1) ? NAN : -8 * random.uniform(); });
  }

  UpdateMaskInputs with_marks() const {
    return {.mask = mask.view(), .computed = computed.view(), .marks = marks.view()};
  }
  UpdateMaskInputs with_scores() const {
    return {.mask = mask.view(), .computed = computed.view(), .scores = scores.view()};
  }

  TileMask mask, computed, marks;
  Tensor scores;
};

bool overlaps(const std::vector<TokenRange>& ranges, std::int64_t begin, std::int64_t end) {
  return std::any_of(ranges.begin(), ranges.end(), [&](const TokenRange& range) {
    return std::max(range.begin, begin) < std::min(range.end, end);
  });
}

// Every grid has a last word that is not full, or exactly full.
const TileGrid kGrids[] = {
    {1, 1, 1, 1, 128, 64},
    {2, 3, 300, 63 * 64, 128, 64},
    {1, 2, 257, 64 * 128, 64, 128},
    {1, 1, 40000, 130 * 64 - 5, 128, 64},
};

class UpdateMaskTest : public testing::TestWithParam<Backend> {
 protected:
  // The words start as ones: each of them has to be written, padding included.
  TileMask next_of(const UpdateMaskInputs& inputs, const UpdateMaskOptions& options) const {
    TileMask next(inputs.mask.grid);
    std::fill_n(next.view().words, next.grid().words(), ~std::uint64_t{0});
    update_mask(context_, inputs, options, next.view());
    return next;
  }

  const Context context_{.backend = GetParam()};
  Random random_{1};
};

INSTANTIATE_TEST_SUITE_P(Backends,
                         UpdateMaskTest,
                         testing::Values(Backend::reference, Backend::cpu),
                         [](const auto& test) { return std::string(name_of(test.param)); });

TEST_P(UpdateMaskTest, MarksDecideOverComputedTilesOnly) {
  for (const TileGrid& grid : kGrids) {
    const Step step(grid, random_);
    const std::vector<std::uint8_t> mask = step.mask.to_dense();
    const std::vector<std::uint8_t> computed = step.computed.to_dense();
    const std::vector<std::uint8_t> marks = step.marks.to_dense();
    std::vector<std::uint8_t> want(mask.size());
    for (std::size_t i = 0; i < want.size(); ++i) want[i] = computed[i] ? !marks[i] : mask[i];
    EXPECT_EQ(next_of(step.with_marks(), {}), TileMask::from_dense(grid, want));
  }
}

TEST_P(UpdateMaskTest, WithoutComputedEveryTileWasComputed) {
  for (const TileGrid& grid : kGrids) {
    const Step step(grid, random_);
    UpdateMaskInputs inputs = step.with_marks();
    inputs.computed = {};
    EXPECT_EQ(next_of(inputs, {}), ~step.marks);
  }
}

TEST_P(UpdateMaskTest, ScoresUpToTheThresholdMark) {
  for (const TileGrid& grid : kGrids) {
    Step step(grid, random_);
    step.scores.set(0, -3);  // equal to the threshold: marked
    step.computed.set(0, 0, 0, 0);
    const std::vector<std::uint8_t> mask = step.mask.to_dense();
    const std::vector<std::uint8_t> computed = step.computed.to_dense();
    std::vector<std::uint8_t> want(mask.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      want[i] = computed[i] ? !(step.scores.get(i) <= -3) : mask[i];  // NaN stays active
    }
    const TileMask next = next_of(step.with_scores(), {.threshold = -3.0});
    EXPECT_EQ(next, TileMask::from_dense(grid, want));
    EXPECT_FALSE(next.test(0, 0, 0, 0));
  }
}

// A threshold between two neighbouring floats tells them apart.
TEST_P(UpdateMaskTest, TheThresholdIsNotRounded) {
  const TileGrid grid{1, 1, 1, 128, 128, 64};
  Step step(grid, random_);
  step.computed = TileMask::full(grid);
  step.scores.set(0, -3);
  step.scores.set(1, std::nextafter(-3.0f, 0.0f));
  const TileMask next = next_of(step.with_scores(), {.threshold = -3.0 + 1e-12});
  EXPECT_FALSE(next.test(0, 0, 0, 0));
  EXPECT_TRUE(next.test(0, 0, 0, 1));
}

TEST_P(UpdateMaskTest, AThresholdOfMinusInfinityMarksNothing) {
  for (const TileGrid& grid : kGrids) {
    Step step(grid, random_);
    step.scores.generate([&] { return random_.chance(0.5) ? -kInfinity : -1e30f; });
    const TileMask next = next_of(step.with_scores(), {.threshold = -kInfinity});
    EXPECT_EQ(next, TileMask(step.mask) |= step.computed);
  }
}

TEST_P(UpdateMaskTest, ProtectedRangesRoundOutwardToTiles) {
  for (const TileGrid& grid : kGrids) {
    for (int repeat = 0; repeat < 10; ++repeat) {
      const Step step(grid, random_);
      const auto ranges = [&](std::int64_t length) {
        std::vector<TokenRange> list;
        for (int i = 0; i < 3; ++i) {
          const std::int64_t begin = random_.integer(0, length);
          list.push_back({begin, random_.integer(begin, std::min(length, begin + 200))});
        }
        return list;
      };
      const std::vector<TokenRange> queries = ranges(grid.q_len);
      const std::vector<TokenRange> keys = ranges(grid.k_len);
      std::vector<std::uint8_t> want = next_of(step.with_marks(), {}).to_dense();
      for (std::size_t i = 0; i < want.size(); ++i) {
        const std::int64_t key = static_cast<std::int64_t>(i) % grid.k_tiles() * grid.block_k;
        const std::int64_t query =
            static_cast<std::int64_t>(i) / grid.k_tiles() % grid.q_tiles() * grid.block_q;
        want[i] |= overlaps(queries, query, query + grid.block_q) ||
                   overlaps(keys, key, key + grid.block_k);
      }
      const TileMask next =
          next_of(step.with_marks(), {.protected_queries = queries, .protected_keys = keys});
      EXPECT_EQ(next, TileMask::from_dense(grid, want));
    }
  }
}

TEST_P(UpdateMaskTest, UpdatesTheMaskInPlace) {
  for (const TileGrid& grid : kGrids) {
    const std::vector<TokenRange> keys{{grid.k_len - 1, grid.k_len}};
    const Step step(grid, random_);
    const TileMask by_marks = next_of(step.with_marks(), {.protected_keys = keys});
    const TileMask by_scores = next_of(step.with_scores(), {.threshold = -4.0});

    Step in_place = step;
    update_mask(context_, in_place.with_marks(), {.protected_keys = keys}, in_place.mask.view());
    EXPECT_EQ(in_place.mask, by_marks);
    in_place = step;
    update_mask(context_, in_place.with_scores(), {.threshold = -4.0}, in_place.mask.view());
    EXPECT_EQ(in_place.mask, by_scores);
  }
}

}  // namespace
}  // namespace saccade::test

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
    update_mask(context_, inputs, options, {.next = next.view()});
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
    update_mask(context_, in_place.with_marks(), {.protected_keys = keys},
                {.next = in_place.mask.view()});
    EXPECT_EQ(in_place.mask, by_marks);
    in_place = step;
    update_mask(context_, in_place.with_scores(), {.threshold = -4.0},
                {.next = in_place.mask.view()});
    EXPECT_EQ(in_place.mask, by_scores);
  }
}

// Backends agree bit by bit, whatever is asked for.
TEST_P(UpdateMaskTest, AgreesWithTheReferenceOnBudgets) {
  for (const TileGrid& grid : kGrids) {
    for (const double budget : {0.0, 0.01, 0.5, 3.0, 1e9}) {
      Step step(grid, random_);
      // Scores from far below the smallest float up to 0, many of them equal.
      step.scores.generate([&] {
        if (random_.chance(0.05)) return random_.pick({double{NAN}, double{-kInfinity}, 0.0});
        return std::floor(-200 * std::pow(random_.uniform(), 3)) / 2;
      });
      std::vector<double> thresholds;
      for (std::int64_t head = 0; head < grid.heads; ++head) {
        thresholds.push_back(random_.pick({-1.0, -6.5, 0.0, double{-kInfinity}}));
      }
      const Measure measure = random_.pick({Measure::largest_weight, Measure::mean_mass});
      Tensor lens(DType::i32, {grid.batch});
      lens.generate([&] { return static_cast<double>(random_.integer(0, grid.k_len)); });
      const std::vector<std::int64_t> rows = {grid.batch, grid.heads, grid.q_tiles()};
      Tensor spent(DType::f32, rows);
      spent.generate([&] { return random_.chance(0.5) ? 0.0 : budget * random_.uniform(); });
      UpdateMaskInputs inputs = step.with_scores();
      inputs.k_lens = lens.view();
      const auto run = [&](const Context& context, TileMask& next, Tensor& paid, Tensor& probed) {
        update_mask(context, inputs,
                    {.head_thresholds = thresholds, .measure = measure, .mass_budget = budget},
                    {.next = next.view(), .spent = paid.view(), .probed_mass = probed.view()});
      };
      TileMask next(grid), expected(grid);
      Tensor paid = spent, expected_paid = spent, probed(DType::f32, rows),
             expected_probed = probed;
      run(context_, next, paid, probed);
      run({.backend = Backend::reference}, expected, expected_paid, expected_probed);
      EXPECT_EQ(next, expected);
      EXPECT_EQ(paid.values(), expected_paid.values());
      EXPECT_EQ(probed.values(), expected_probed.values());
      for (std::int64_t row = 0; row < spent.element_count(); ++row) {
        EXPECT_GE(paid.get(row), spent.get(row));
        EXPECT_LE(paid.get(row), std::max(spent.get(row), budget) * (1 + 1e-7));
      }
    }
  }
}

TEST_P(UpdateMaskTest, AFallIsAddedToTheScoresOfItsRow) {
  const TileGrid grid{1, 1, 200, 3 * 64, 128, 64};
  const TileMask full = TileMask::full(grid);
  Tensor scores(DType::f32, {1, 1, 2, 3}), fall(DType::f32, {1, 1, 2});
  const double values[] = {-9, 2, NAN, -9, 2, -4};
  for (int tile = 0; tile < 6; ++tile) scores.set(tile, values[tile]);
  fall.set(0, 3);
  fall.set(1, -4);
  TileMask next(grid);
  update_mask(context_, {.mask = full.view(), .scores = scores.view(), .fall = fall.view()},
              {.threshold = -2.0}, {.next = next.view()});
  EXPECT_EQ(next.to_dense(), (std::vector<std::uint8_t>{0, 1, 1, 0, 0, 0}));
  fall.set(1, NAN);
  update_mask(context_, {.mask = full.view(), .scores = scores.view(), .fall = fall.view()},
              {.threshold = 0.0}, {.next = next.view()});
  EXPECT_EQ(next.to_dense(), (std::vector<std::uint8_t>{0, 0, 1, 1, 1, 1}));
}

// By hand: tiles of 64 keys, bounds 64 * 2^score.
TEST_P(UpdateMaskTest, ABudgetDropsTheSmallestBoundsFirst) {
  const TileGrid grid{1, 1, 1, 5 * 64, 128, 64};
  const TileMask full = TileMask::full(grid);
  Tensor scores(DType::f32, {1, 1, 1, 5});
  const double values[] = {-9, -10, -8, -7.9, -20};  // bounds 1/8, 1/16, 1/4, 0.268, 2^-14
  for (int tile = 0; tile < 5; ++tile) scores.set(tile, values[tile]);
  const auto dropped = [&](double budget, double spent_before,
                           Measure measure = Measure::largest_weight) {
    Tensor spent(DType::f32, {1, 1, 1});
    spent.set(0, spent_before);
    TileMask next(grid);
    update_mask(context_, {.mask = full.view(), .scores = scores.view()},
                {.threshold = -5.0, .measure = measure, .mass_budget = budget},
                {.next = next.view(), .spent = spent.view()});
    std::string tiles;
    for (int tile = 0; tile < 5; ++tile) {
      if (!next.test(0, 0, 0, tile)) tiles += static_cast<char>('0' + tile);
    }
    return tiles;
  };
  EXPECT_EQ(dropped(10, 0), "01234");
  EXPECT_EQ(dropped(0.19, 0), "014");
  EXPECT_EQ(dropped(0.45, 0), "0124");  // of the two bounds in [1/4, 1/2) the first one fits
  EXPECT_EQ(dropped(0.45, 0.3), "14");
  EXPECT_EQ(dropped(0.05, 0), "4");
  EXPECT_EQ(dropped(0, 0), "");
  // Masses need no factor: 2^-10 + 2^-20 are paid, 2^-9 is not.
  EXPECT_EQ(dropped(0.0029, 0, Measure::largest_mass), "14");
}

TEST_P(UpdateMaskTest, ComputedTilesAreAUnionLessWhatIsSkipped) {
  for (const TileGrid& grid : kGrids) {
    for (const std::int64_t period : {0, 1, 3, 64, 100}) {
      const TileMask mask = random_mask(grid, 0.3, random_);
      const auto ranges = [&](std::int64_t length) {
        std::vector<TokenRange> list;
        for (int i = 0; i < 3; ++i) {
          const std::int64_t begin = random_.integer(0, length);
          list.push_back({begin, random_.chance(0.3) ? length : random_.integer(begin, length)});
        }
        return list;
      };
      const auto few = [&](std::int64_t length) {
        const std::int64_t begin = random_.integer(0, length);
        return std::vector<TokenRange>{{begin, std::min(length, begin + 3)}};
      };
      const std::vector<TokenRange> queries = few(grid.q_len), keys = few(grid.k_len);
      const std::vector<TokenRange> no_queries = ranges(grid.q_len), no_keys = ranges(grid.k_len);
      const ComputedTilesOptions options = {.is_dense = random_.chance(0.2),
                                            .reprobe_period = period,
                                            .step = random_.integer(0, 1000),
                                            .protected_queries = queries,
                                            .protected_keys = keys,
                                            .skipped_queries = no_queries,
                                            .skipped_keys = no_keys};
      TileMask computed(grid), expected(grid);
      std::fill_n(computed.view().words, grid.words(), ~std::uint64_t{0});
      computed_tiles(context_, mask.view(), options, computed.view());
      computed_tiles({.backend = Backend::reference}, mask.view(), options, expected.view());
      EXPECT_EQ(computed, expected);
    }
  }
}

// By hand: 4 x 5 tiles, the last ones partial.
TEST_P(UpdateMaskTest, SkippedRangesRoundInwardToTiles) {
  const TileGrid grid{1, 1, 450, 300, 128, 64};
  const TileMask full = TileMask::full(grid);
  const TokenRange queries[] = {{127, 256}};         // the second row of tiles
  const TokenRange keys[] = {{0, 127}, {250, 300}};  // the first column; the last one
  TileMask computed(grid);
  computed_tiles(context_, full.view(), {.skipped_queries = queries, .skipped_keys = keys},
                 computed.view());
  for (int q_tile = 0; q_tile < 4; ++q_tile) {
    for (int k_tile = 0; k_tile < 5; ++k_tile) {
      const bool is_skipped = q_tile == 1 || k_tile == 0 || k_tile == 4;
      EXPECT_EQ(computed.test(0, 0, q_tile, k_tile), !is_skipped) << q_tile << ' ' << k_tile;
    }
  }
}

TEST_P(UpdateMaskTest, AStripeIsADiagonalThatMovesWithTheStep) {
  const TileGrid grid{1, 1, 3 * 128, 130 * 64, 128, 64};
  const TileMask empty(grid);
  TileMask computed(grid);
  computed_tiles(context_, empty.view(), {.reprobe_period = 7, .step = 12}, computed.view());
  for (int q_tile = 0; q_tile < 3; ++q_tile) {
    for (int k_tile = 0; k_tile < 130; ++k_tile) {
      EXPECT_EQ(computed.test(0, 0, q_tile, k_tile), (q_tile + k_tile + 12) % 7 == 0);
    }
  }
}

}  // namespace
}  // namespace saccade::test

#include "support/expect_error.h"
#include "support/random.h"
#include "support/selection.h"
#include "support/tensor.h"

#include <saccade/routing.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace saccade::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

Tensor random_tensor(DType dtype,
                     const std::vector<std::int64_t>& shape,
                     Random& random,
                     Layout layout = Layout::bhsd) {
  return std::move(Tensor(dtype, shape, layout).generate([&] { return random.normal(); }));
}

std::string backend_name(const testing::TestParamInfo<Backend>& info) {
  return std::string(name_of(info.param));
}

class RoutingTest : public testing::TestWithParam<Backend> {
 protected:
  const Context context_{.backend = GetParam()};
  Random random_{1};
};

INSTANTIATE_TEST_SUITE_P(Backends,
                         RoutingTest,
                         testing::Values(Backend::reference, Backend::cpu),
                         backend_name);

// Means

Tensor pooled(const Context& context, const Tensor& x, int block, const Tensor& lens = {}) {
  Tensor means(x.dtype() == DType::f64 ? DType::f64 : DType::f32,
               {x.extent(0), x.extent(1), (x.extent(2) + block - 1) / block, x.extent(3)});
  pool_tiles(context, {.x = x.view(), .lens = lens.view()}, {.block = block}, means.view());
  return means;
}

TEST_P(RoutingTest, MeansAreThoseOfTheValidRows) {
  using Case = std::tuple<DType, Layout, int, std::int64_t>;
  for (const auto& [dtype, layout, block, length] :
       {Case{DType::f32, Layout::bhsd, 64, 64}, Case{DType::f32, Layout::padded, 128, 257},
        Case{DType::bf16, Layout::bshd, 64, 129}, Case{DType::f16, Layout::padded, 64, 1},
        Case{DType::f32, Layout::bshd, 128, 127}}) {
    const Tensor x = random_tensor(dtype, {2, 3, length, 48}, random_, layout);
    const Tensor means = pooled(context_, x, block);
    for (std::int64_t i = 0; i < means.element_count(); ++i) {
      const std::int64_t d = i % 48;
      const std::int64_t tile = i / 48 % means.extent(2);
      const std::int64_t head = i / 48 / means.extent(2);
      const std::int64_t end = std::min<std::int64_t>(length, (tile + 1) * block);
      double sum = 0;
      double size = 0;
      for (std::int64_t token = tile * block; token < end; ++token) {
        const double value = x.get(x.index(head / 3, head % 3, token, d));
        sum += value;
        size += std::abs(value);
      }
      const double count = static_cast<double>(end - tile * block);
      // Half a unit in the last place for each of at most 128 sums, and one for the quotient.
      ASSERT_NEAR(means.get(i), sum / count, 129 * 0x1p-24 * size / count) << i;
    }
  }
}

TEST_P(RoutingTest, RowsBeyondTheLengthsAreNotRead) {
  Tensor x = random_tensor(DType::f32, {3, 1, 200, 16}, random_);
  const std::vector<std::int64_t> lens = {200, 70, 0};
  for (std::int64_t sample = 0; sample < 3; ++sample) {
    for (std::int64_t token = lens[sample]; token < 200; ++token) {
      for (std::int64_t d = 0; d < 16; ++d) x.set(x.index(sample, 0, token, d), NAN);
    }
  }
  const Tensor means = pooled(context_, x, 64, lengths(lens));
  for (std::int64_t tile = 0; tile < 4; ++tile) {
    EXPECT_NE(means.get(means.index(0, 0, tile)), 0);
    EXPECT_EQ(means.get(means.index(1, 0, tile)) == 0, tile >= 2);
    EXPECT_EQ(means.get(means.index(2, 0, tile)), 0);
  }
  double sum = 0;
  for (std::int64_t token = 64; token < 70; ++token) sum += x.get(x.index(1, 0, token, 5));
  EXPECT_NEAR(means.get(means.index(1, 0, 1, 5)), sum / 6, 1e-6);
}

TEST_P(RoutingTest, NanStaysInItsTileAndFeature) {
  Tensor x = random_tensor(DType::f32, {1, 1, 192, 16}, random_);
  x.set(x.index(0, 0, 100, 3), NAN);
  const Tensor means = pooled(context_, x, 64);
  for (std::int64_t i = 0; i < means.element_count(); ++i) {
    EXPECT_EQ(std::isnan(means.get(i)), i == means.index(0, 0, 1, 3));
  }
}

// Classes

SelectTilesOptions counts(std::int64_t critical, std::int64_t negligible) {
  return {.scale = 1,
          .critical = TileShare::of_count(critical),
          .negligible = TileShare::of_count(negligible)};
}

TEST_P(RoutingTest, TheHighestRanksAreCriticalAndTheLowestNegligible) {
  Selection selection({0.5, -2, 3, 1, -1, 2});
  selection.options = counts(2, 1);
  EXPECT_EQ(selection.run(context_).classes(), "mncmmc");
  selection.options.scale = -1;
  EXPECT_EQ(selection.run(context_).classes(), "mcnmcm");
}

TEST_P(RoutingTest, EqualTilesRankByIndex) {
  Selection selection({1, 1, 1, 1, 1});
  selection.options = counts(2, 2);
  EXPECT_EQ(selection.run(context_).classes(), "ccmnn");
}

TEST_P(RoutingTest, ThereIsAlwaysACriticalTileAndItBeatsNegligible) {
  Selection selection({0, 2, 1});
  selection.options = counts(0, 3);
  EXPECT_EQ(selection.run(context_).classes(), "ncn");
  selection.options = counts(2, 2);
  EXPECT_EQ(selection.run(context_).classes(), "ncc");
  selection.options = counts(100, 100);
  EXPECT_EQ(selection.run(context_).classes(), "ccc");
}

TEST_P(RoutingTest, RatiosAreRoundedDown) {
  Selection selection(std::vector<double>(19));
  selection.options.critical = TileShare::of_ratio(0.2);     // 3.8
  selection.options.negligible = TileShare::of_ratio(0.10);  // 1.9
  EXPECT_EQ(selection.run(context_).classes(), "cccmmmmmmmmmmmmmmmn");
  selection.options.critical = TileShare::of_ratio(0.05);  // 0.95: at least one
  selection.options.negligible = TileShare::of_ratio(0.05);
  EXPECT_EQ(selection.run(context_).classes(), "cmmmmmmmmmmmmmmmmmm");
}

TEST_P(RoutingTest, ProtectedTilesCountAmongTheCriticalOnes) {
  Selection selection({0, 5, 4, 3, 2, 1});
  selection.always.emplace(selection.grid);
  selection.always->set(0, 0, 0, 0);
  selection.options = counts(2, 2);
  EXPECT_EQ(selection.run(context_).classes(), "ccmmmn");
  selection.always->set(0, 0, 0, 5);
  selection.always->set(0, 0, 0, 4);
  EXPECT_EQ(selection.run(context_).classes(), "cmmmcc");
}

TEST_P(RoutingTest, CriticalMassAddsTilesUntilItIsReached) {
  const double ln2 = std::log(2.0);  // weights 8, 4, 2, 1, 1 of 16
  Selection selection({ln2, 2 * ln2, 3 * ln2, 0, 0});
  selection.options = counts(1, 0);
  for (const auto& [mass, classes] : std::vector<std::pair<double, std::string>>{
           {0.4, "mmcmm"}, {0.6, "mccmm"}, {0.8, "cccmm"}, {0.9, "ccccm"}, {0.99, "ccccc"}}) {
    selection.options.critical_mass = mass;
    EXPECT_EQ(selection.run(context_).classes(), classes) << mass;
  }
  selection.options = counts(4, 0);  // the union of both
  selection.options.critical_mass = 0.6;
  EXPECT_EQ(selection.run(context_).classes(), "ccccm");
}

TEST_P(RoutingTest, NanAndInfinityRankFirstAndTakeAllMass) {
  Selection selection({5, NAN, -kInfinity, kInfinity, 7});
  selection.k.set(16 + 1, NAN);
  selection.options = counts(1, 1);
  EXPECT_EQ(selection.run(context_).classes().substr(0, 3), "mcn");
  selection.options.critical_mass = 1;
  EXPECT_EQ(selection.run(context_).classes(), "mcncm");
}

TEST_P(RoutingTest, TilesWithoutAValidTokenAreNegligible) {
  Selection selection({2, 2, 1000, 65 * 64, 64, 64}, 1, 16);
  selection.q.generate([&] { return random_.normal(); });
  selection.k.generate([&] { return random_.normal(); });
  selection.q_lens = lengths({129, 0});
  selection.k_lens = lengths({64 * 64 + 1, 200});
  selection.options = counts(3, 2);
  selection.run(context_);
  for (std::int64_t row = 0; row < selection.grid.rows(); ++row) {
    const std::string classes = selection.classes(row);
    const bool is_valid = row / 32 == 0 && row % 16 < 3;
    EXPECT_EQ(std::ranges::count(classes, 'c'), is_valid ? 3 : 0) << row;
    EXPECT_EQ(std::ranges::count(classes, 'm'), is_valid ? 60 : 0) << row;
  }
  selection.q_lens = {};
  selection.k_lens = lengths({0, 200});
  selection.run(context_);
  EXPECT_EQ(selection.classes(0), std::string(65, 'n'));
  const std::string classes = selection.classes(2 * 16);
  EXPECT_EQ(std::ranges::count(classes.substr(0, 4), 'n'), 1);  // 3 critical, 2 lowest overlap
  EXPECT_EQ(classes.substr(4), std::string(61, 'n'));
}

// Mistakes

struct PoolCall {
  void run(const Context& context) const { pool_tiles(context, inputs, options, view); }
  bool is_untouched() const { return means.is_unwritten(); }

  Tensor x = Tensor(DType::f32, {2, 3, 100, 16}).generate([] { return 1; });
  Tensor lens = lengths({100, 50});
  Tensor means{DType::f32, {2, 3, 2, 16}};
  PoolTilesInputs inputs{.x = x.view(), .lens = lens.view()};
  PoolTilesOptions options;
  TensorView view = means.view();
};

TEST(RoutingMistakes, OfPooling) {
  expect_mistakes<PoolCall>({
      {[](PoolCall& c) { c.inputs.x = {}; }, {"x is missing"}},
      {[](PoolCall& c) { c.inputs.x.rank = 3; }, {"x has 3 dimensions", "needs 4"}},
      {[](PoolCall& c) { c.inputs.x.dtype = DType::i32; }, {"x has dtype i32"}},
      {[](PoolCall& c) { c.inputs.x.shape[2] = 0; }, {"x has extent 0 in dimension 2"}},
      {[](PoolCall& c) { c.inputs.x.strides[3] = 2; }, {"x has stride 2", "contiguous"}},
      {[](PoolCall& c) {
         c.inputs.x.device = {DeviceType::cuda, 1};
       },
       {"x lies on cuda:1"}},
      {[](PoolCall& c) { c.lens.set(1, 101); }, {"lens[1] is 101", "[0, 100]"}},
      {[](PoolCall& c) { c.options.block = 96; }, {"block is 96", "64 or 128", "nearest is 128"}},
      {[](PoolCall& c) { c.view.shape[2] = 1; },
       {"means has shape [2, 3, 1, 16]", "[2, 3, 2, 16]"}},
      {[](PoolCall& c) { c.view.dtype = DType::f64; }, {"means has dtype f64", "needs f32"}},
      {[](PoolCall& c) { c.view.strides[1] = 64; }, {"means has stride 64", "densely"}},
  });
}

struct SelectCall {
  void run(const Context& context) const {
    select_tiles(context, inputs, options, {critical, marginal});
  }
  bool is_untouched() const { return owned.critical.count() == 0 && owned.marginal.count() == 0; }

  static Selection legal() {
    Selection selection({2, 2, 100, 300, 64, 64}, 1, 16);
    selection.q.generate([] { return 1; });
    selection.k.generate([] { return 1; });
    selection.q_lens = lengths({100, 50});
    selection.always.emplace(selection.grid);
    return selection;
  }

  Selection owned = legal();
  SelectTilesInputs inputs = owned.inputs();
  SelectTilesOptions options;
  TileMaskView critical = owned.critical.view();
  TileMaskView marginal = owned.marginal.view();
};

TEST(RoutingMistakes, OfSelection) {
  expect_mistakes<SelectCall>({
      {[](SelectCall& c) { c.inputs.grid.block_q = 32; }, {"block_q", "32"}},
      {[](SelectCall& c) { c.inputs.q = {}; }, {"q is missing"}},
      {[](SelectCall& c) { c.inputs.k = {}; }, {"k is missing"}},
      {[](SelectCall& c) { c.inputs.q.dtype = DType::bf16; }, {"q has dtype bf16", "pool_tiles"}},
      {[](SelectCall& c) { c.inputs.k.dtype = DType::f64; }, {"k has dtype f64", "needs f32"}},
      {[](SelectCall& c) { c.inputs.q.shape[2] = 3; },
       {"q has shape [2, 2, 3, 16]", "[2, 2, 2, 16]"}},
      {[](SelectCall& c) { c.inputs.k.shape[3] = 8; }, {"k has head_dim 8 and q has 16"}},
      {[](SelectCall& c) { c.inputs.k.strides[3] = 2; }, {"k has stride 2"}},
      {[](SelectCall& c) { c.owned.q_lens.set(0, -1); }, {"q_lens[0] is -1", "[0, 100]"}},
      {[](SelectCall& c) { c.inputs.always.grid.k_len = 200; }, {"always belongs to another grid"}},
      {[](SelectCall& c) { c.options.critical_mass = 1.5; },
       {"critical_mass is 1.5", "[0, 1]", "nearest legal choice is 1"}},
      {[](SelectCall& c) { c.options.critical_mass = NAN; }, {"critical_mass is nan"}},
      {[](SelectCall& c) { c.options.scale = kInfinity; }, {"scale is inf", "finite"}},
      {[](SelectCall& c) { c.critical = {}; }, {"classes.critical is missing"}},
      {[](SelectCall& c) { c.marginal.grid.heads = 1; }, {"classes.marginal belongs to another"}},
  });
}

TEST(RoutingMistakes, OfShares) {
  expect_error<InvalidArgument>({"ratio of tiles is 1.5", "[0, 1]", "nearest legal choice is 1"},
                                [] { TileShare::of_ratio(1.5); });
  expect_error<InvalidArgument>({"ratio of tiles is nan"}, [] { TileShare::of_ratio(NAN); });
  expect_error<InvalidArgument>({"count of tiles is -1", "at least 0"},
                                [] { TileShare::of_count(-1); });
}

TEST(RoutingMistakes, OfAWorkspaceThatIsTooSmall) {
  const Selection selection = SelectCall::legal();
  const Context context{.backend = Backend::cpu};
  const std::size_t bytes = select_tiles_workspace_size(context, selection.inputs(), {});
  std::vector<std::byte> memory(bytes + 64);
  void* start = memory.data();
  std::size_t room = memory.size();
  std::align(64, bytes, start, room);
  const auto run = [&](std::size_t size) {
    const Context given{.workspace = {static_cast<std::byte*>(start), size},
                        .backend = Backend::cpu};
    select_tiles(given, selection.inputs(), {},
                 {selection.critical.view(), selection.marginal.view()});
  };
  EXPECT_NO_THROW(run(bytes));
  expect_error<InvalidArgument>({std::to_string(bytes)}, [&] { run(bytes - 64); });
}

}  // namespace
}  // namespace saccade::test

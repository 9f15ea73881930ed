#include "check/problem.h"

#include "check/random.h"

#include <fmt/format.h>

#include <cmath>

namespace saccade::cli {
namespace {

struct Lengths {
  std::int64_t q;
  std::int64_t k;
};

// Mostly short: the reference is scalar.
Lengths draw_lengths(Random& random, int head_dim) {
  switch (random.integer(0, 7)) {
    case 0:
      return {random.integer(1, 9), random.integer(1, 9)};
    case 1:
      return {random.integer(1, 200), 1};
    case 2:
      return {64 * random.integer(1, 3), 64 * random.integer(1, 4)};  // no partial tile
    case 3:
      // Rows of more than 64 tiles, whose bits fill more than one word.
      if (head_dim <= 64) return {random.integer(1, 20), random.integer(4097, 4400)};
      [[fallthrough]];
    case 4:
      if (head_dim <= 128) return {random.integer(300, 420), random.integer(300, 420)};
      [[fallthrough]];
    default:
      return {random.integer(1, 200), random.integer(1, 200)};
  }
}

struct Heads {
  std::int64_t q;
  std::int64_t k;
};

std::string_view name_of(MaskKind mask) {
  switch (mask) {
    case MaskKind::absent:
      return "dense";
    case MaskKind::full:
      return "full mask";
    case MaskKind::half:
      return "half of the tiles";
    case MaskKind::sparse:
      return "few tiles";
  }
  return "";
}

}  // namespace

Problem make_problem(std::uint64_t seed, int number) {
  constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16};
  Random random(seed, number, Random::Stream::problem);
  Problem problem{.seed = seed, .number = number};
  problem.dtype = kDTypes[number % 3];
  problem.head_dim = 16 * (1 + number / 3 % 16);

  const Lengths lengths = draw_lengths(random, problem.head_dim);
  const bool is_large = lengths.q * lengths.k > 200 * 200;
  const Heads heads = is_large ? random.pick<Heads>({{1, 1}, {2, 1}})
                               : random.pick<Heads>({{1, 1}, {2, 2}, {2, 1}, {4, 2}, {3, 1}});
  problem.k_heads = heads.k;
  problem.grid = {.batch = is_large ? 1 : random.integer(1, 3),
                  .heads = heads.q,
                  .q_len = lengths.q,
                  .k_len = lengths.k,
                  .block_q = random.pick({64, 128}),
                  .block_k = random.pick({64, 128})};
  problem.layout = random.pick({Layout::bhsd, Layout::bshd, Layout::padded});
  problem.mask = random.pick({MaskKind::absent, MaskKind::full, MaskKind::half, MaskKind::sparse});
  problem.order = random.pick(
      {VisitOrder::linear, VisitOrder::reversed, VisitOrder::radial, VisitOrder::strongest});
  problem.scale = random.pick({1.0, 1.0, 0.7}) / std::sqrt(problem.head_dim);
  problem.threshold = random.uniform(-8, -0.5);
  problem.has_lens = random.integer(0, 2) == 0;
  problem.has_nan = random.integer(0, 7) == 0;
  return problem;
}

std::string describe(const Problem& problem) {
  const TileGrid& grid = problem.grid;
  return fmt::format(
      "{}, batch {}, heads {} over {}, lengths {} x {}, head_dim {}, {}, tiles {} x {}, {}, {} "
      "order, scale {:.6g}, threshold {:.6g}{}{}",
      name_of(problem.dtype), grid.batch, grid.heads, problem.k_heads, grid.q_len, grid.k_len,
      problem.head_dim, name_of(problem.layout), grid.block_q, grid.block_k, name_of(problem.mask),
      name_of(problem.order), problem.scale, problem.threshold,
      problem.has_lens ? ", q_lens and k_lens" : "", problem.has_nan ? ", one NaN" : "");
}

}  // namespace saccade::cli

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/select_tiles.cc"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on

#include "core/arena.h"
#include "core/parallel.h"
#include "cpu/constants.h"
#include "cpu/cpu_backend.h"
#include "cpu/element.h"
#include "cpu/pack-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

void pack_key_means(const SelectProblem& problem,
                    std::int64_t batch,
                    std::int64_t key_head,
                    float* panels) {
  const std::int64_t tiles = problem.valid_k_tiles(batch);
  for (std::int64_t first = 0; first < tiles; first += kMeansPanel) {
    rows_to_panel(row_of<const float>(problem.k, batch, key_head, first), problem.k.strides[2],
                  tiles - first, problem.head_dim(), 1.0f, kMeansPanel,
                  panels + first * problem.head_dim());
  }
}

// logits[lane] = scale * sum over d of q[d] * panel[d][lane]. Products of two floats are exact in
// double, so that the reference, without fused multiply-add, gets the same bits.
void panel_logits(const float* HWY_RESTRICT q,
                  const float* HWY_RESTRICT panel,
                  std::ptrdiff_t head_dim,
                  double scale,
                  double* HWY_RESTRICT logits) {
  const hn::CappedTag<double, 4> d64;
  const hn::Rebind<float, decltype(d64)> d32;
  constexpr std::ptrdiff_t kLanes = hn::MaxLanes(decltype(d64)());
  hn::Vec<decltype(d64)> sums[kMeansPanel / kLanes];
  for (auto& sum : sums) sum = hn::Zero(d64);
  for (std::ptrdiff_t d = 0; d < head_dim; ++d, panel += kMeansPanel) {
    const auto query = hn::Set(d64, static_cast<double>(q[d]));
    for (std::ptrdiff_t i = 0; i < kMeansPanel / kLanes; ++i) {
      const auto keys = hn::PromoteTo(d64, hn::LoadU(d32, panel + i * kLanes));
      sums[i] = hn::MulAdd(query, keys, sums[i]);
    }
  }
  for (std::ptrdiff_t i = 0; i < kMeansPanel / kLanes; ++i) {
    hn::StoreU(hn::Mul(hn::Set(d64, scale), sums[i]), d64, logits + i * kLanes);
  }
}

// The logits of one row of tiles; room for a whole number of panels.
void row_logits(const SelectProblem& problem,
                std::int64_t batch,
                std::int64_t head,
                std::int64_t q_tile,
                const float* panels,
                double* logits) {
  const std::int64_t tiles = problem.valid_k_tiles(batch);
  const float* q = row_of<const float>(problem.q, batch, head, q_tile);
  for (std::int64_t first = 0; first < tiles; first += kMeansPanel) {
    panel_logits(q, panels + first * problem.head_dim(), problem.head_dim(), problem.scale,
                 logits + first);
  }
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cpu {
namespace {

HWY_EXPORT(pack_key_means);
HWY_EXPORT(row_logits);

// Rows of tiles per unit of work: enough to make up for packing the keys.
constexpr std::int64_t kRowsPerUnit = 32;

struct SelectScratch {
  SelectScratch(Arena& arena, const SelectProblem& problem)
      : panels(arena.take<float>(room(problem) * problem.head_dim())),
        logits(arena.take<double>(room(problem))),
        weights(arena.take<double>(room(problem))),
        order(arena.take<std::int32_t>(room(problem))) {}

  static std::int64_t room(const SelectProblem& problem) {
    return (problem.grid.k_tiles() + kMeansPanel - 1) / kMeansPanel * kMeansPanel;
  }

  float* panels;
  double* logits;
  double* weights;
  std::int32_t* order;
};

// Divides the key tiles of one row of tiles into classes. Only as much is sorted as is asked for.
class RowOfClasses {
 public:
  RowOfClasses(const SelectProblem& problem,
               std::int64_t row,
               std::int64_t tiles,
               const SelectScratch& scratch)
      : problem_(problem), row_(row), tiles_(tiles), scratch_(scratch) {}

  void classify() {
    std::replace_if(
        scratch_.logits, scratch_.logits + tiles_, [](double x) { return std::isnan(x); },
        std::numeric_limits<double>::infinity());
    list_negligible();
    list_critical();
    for (std::int64_t word = 0; word < problem_.grid.words_per_row(); ++word) {
      const std::int64_t left = tiles_ - word * 64;
      const std::uint64_t valid = left >= 64  ? ~std::uint64_t{0}
                                  : left <= 0 ? 0
                                              : (std::uint64_t{1} << left) - 1;
      marginal()[word] = valid & ~critical()[word] & ~marginal()[word];
    }
  }

 private:
  std::uint64_t* critical() const { return problem_.classes.critical.row(row_); }
  std::uint64_t* marginal() const { return problem_.classes.marginal.row(row_); }

  static void set(std::uint64_t* words, std::int64_t tile) {
    words[tile / 64] |= std::uint64_t{1} << (tile % 64);
  }

  bool ranks_higher(std::int32_t a, std::int32_t b) const {
    const double* logits = scratch_.logits;
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  }
  auto by_rank() const {
    return [this](std::int32_t a, std::int32_t b) { return ranks_higher(a, b); };
  }

  // Into the words of `marginal`, for now.
  void list_negligible() {
    const std::int64_t kept = tiles_ - problem_.options.negligible.of(tiles_);
    if (kept == tiles_) return;
    std::int32_t* order = scratch_.order;
    std::iota(order, order + tiles_, 0);
    std::nth_element(order, order + kept, order + tiles_, by_rank());
    for (std::int64_t rank = kept; rank < tiles_; ++rank) set(marginal(), order[rank]);
  }

  void list_critical() {
    // First the tiles of `always`, then the others by rank.
    std::int32_t* end = scratch_.order;
    std::int64_t count = 0;
    for (std::int32_t tile = 0; tile < tiles_; ++tile) {
      if (problem_.always && problem_.always.test(row_, tile)) {
        set(critical(), tile);
        ++count;
      } else {
        *end++ = tile;
      }
    }
    const std::int64_t others = end - scratch_.order;
    const std::int64_t wanted = std::max<std::int64_t>(1, problem_.options.critical.of(tiles_));
    const std::int64_t chosen = std::clamp<std::int64_t>(wanted - count, 0, others);
    if (problem_.options.critical_mass > 0) {
      std::sort(scratch_.order, end, by_rank());
      choose(chosen_by_mass(chosen, others));
    } else {
      if (chosen < others) {
        std::nth_element(scratch_.order, scratch_.order + chosen, end, by_rank());
      }
      choose(chosen);
    }
  }

  void choose(std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) set(critical(), scratch_.order[i]);
  }

  // How many of the sorted `others` it takes, at least `chosen`, to reach critical_mass.
  std::int64_t chosen_by_mass(std::int64_t chosen, std::int64_t others) {
    const double largest = *std::max_element(scratch_.logits, scratch_.logits + tiles_);
    double total = 0;
    double mass = 0;
    for (std::int64_t tile = 0; tile < tiles_; ++tile) {
      const double logit = scratch_.logits[tile];
      const double weight = logit == largest ? 1 : std::exp(logit - largest);
      scratch_.weights[tile] = weight;
      total += weight;
      if (problem_.always && problem_.always.test(row_, tile)) mass += weight;
    }
    for (std::int64_t i = 0; i < others; ++i) {
      if (i >= chosen && mass >= problem_.options.critical_mass * total) return i;
      mass += scratch_.weights[scratch_.order[i]];
    }
    return others;
  }

  const SelectProblem& problem_;
  const std::int64_t row_;
  const std::int64_t tiles_;
  const SelectScratch& scratch_;
};

void select_rows(const SelectProblem& problem,
                 std::int64_t head_of_batch,
                 std::int64_t begin,
                 std::int64_t end,
                 const SelectScratch& scratch) {
  const TileGrid& grid = problem.grid;
  const std::int64_t batch = head_of_batch / grid.heads;
  const std::int64_t head = head_of_batch % grid.heads;
  const std::int64_t tiles = problem.valid_k_tiles(batch);
  const std::int64_t first_row = head_of_batch * grid.q_tiles();
  for (const TileMaskView& mask : {problem.classes.critical, problem.classes.marginal}) {
    std::fill_n(mask.row(first_row + begin), (end - begin) * grid.words_per_row(), 0);
  }
  end = std::min(end, problem.valid_q_tiles(batch));
  if (tiles == 0 || begin >= end) return;
  HWY_DYNAMIC_DISPATCH(pack_key_means)(problem, batch, problem.key_head(head), scratch.panels);
  for (std::int64_t q_tile = begin; q_tile < end; ++q_tile) {
    HWY_DYNAMIC_DISPATCH(row_logits)
    (problem, batch, head, q_tile, scratch.panels, scratch.logits);
    RowOfClasses(problem, first_row + q_tile, tiles, scratch).classify();
  }
}

}  // namespace

std::size_t workspace_size(const SelectProblem& problem, int workers) {
  Arena arena;
  for (int worker = 0; worker < workers; ++worker) SelectScratch(arena, problem);
  return arena.used();
}

void select_tiles(const Execution& execution, const SelectProblem& problem) {
  const std::size_t bytes = workspace_size(problem, 1);
  const std::int64_t q_tiles = problem.grid.q_tiles();
  const std::int64_t units_per_head = (q_tiles + kRowsPerUnit - 1) / kRowsPerUnit;
  for_each_unit(execution, problem.grid.batch * problem.grid.heads * units_per_head,
                [&](int worker, std::int64_t unit) {
                  Arena arena(execution.workspace.subspan(worker * bytes, bytes));
                  const SelectScratch scratch(arena, problem);
                  const std::int64_t begin = unit % units_per_head * kRowsPerUnit;
                  select_rows(problem, unit / units_per_head, begin,
                              std::min(begin + kRowsPerUnit, q_tiles), scratch);
                });
}

}  // namespace saccade::cpu

#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attention_forward.cc"
// clang-format off
#include <hwy/foreach_target.h>
// clang-format on

#include "core/parallel.h"
#include "cpu/constants.h"
#include "cpu/cpu_backend.h"
#include "cpu/element.h"
#include "cpu/exp2-inl.h"
#include "cpu/forward_layout.h"
#include "cpu/micro_kernel-inl.h"
#include "cpu/pack-inl.h"

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

HWY_BEFORE_NAMESPACE();
namespace saccade::cpu::HWY_NAMESPACE {

std::ptrdiff_t forward_panel_width() {
  return panel_width();
}

// Entries of the list of a row's tiles.
struct RowEntries {
  std::int64_t begin, end;

  bool is_empty() const { return begin == end; }
};

// Those that one of `pieces` visits.
RowEntries entries_of_piece(std::int64_t listed, std::int64_t piece, std::int64_t pieces) {
  return {listed * piece / pieces, listed * (piece + 1) / pieces};
}

// Walks one row of tiles, or a piece of it, with the online softmax.
template <typename Word>
class ForwardRow {
 public:
  // `next`: the row that will probably be walked after this one, or null.
  ForwardRow(const ForwardProblem& problem,
             const RowOfTiles& row,
             const RowOfTiles* next,
             const ForwardScratch& scratch,
             std::int64_t pieces)
      : problem_(problem),
        row_(row),
        next_row_(next),
        scratch_(scratch),
        pieces_(pieces),
        head_dim_(problem.head_dim),
        row_words_(head_dim_ / Word::kElements),
        first_query_(row.q_tile * problem.grid.block_q),
        queries_(std::clamp<std::int64_t>(
            problem.valid_queries(row.batch) - first_query_, 0, problem.grid.block_q)),
        width_(panel_width()),
        panels_((queries_ + width_ - 1) / width_),
        decides_(problem.decides()),
        measures_mass_(problem.measures_mass()),
        leaves_out_values_(problem.leaves_out_values()),
        logit_scale_(static_cast<float>(std::abs(problem.scale) * std::numbers::log2e)) {}

  // Leaves out, row_max, row_sum and scores of the row's piece in the scratch.
  void walk() {
    const Run after_row = first_run_of_next_row();
    list_tiles();
    const RowEntries entries = this->entries(row_.piece);
    if (row_.piece == 0 || problem_.ref) {
      std::fill_n(scratch_.earlier, panels_ * width_, kFloor);
    }
    if (entries.is_empty()) return;
    first_entry_ = entries.begin;
    load_queries();
    Run run = run_at(row_, entries.begin, entries.end);
    for (std::int64_t entry = entries.begin; entry < entries.end;) {
      const bool is_first = entry == entries.begin;
      const std::int64_t next_entry = entry + run.tiles;
      const bool is_last = next_entry == entries.end;
      const Run next = is_last ? after_row : run_at(row_, next_entry, entries.end);
      visit(entry, run, next, is_first, is_last);
      run = next;
      entry = next_entry;
    }
    remember_for_later_pieces();
  }

  void list_tiles() { listed_ = queries_ == 0 ? 0 : list(row_); }

  // What a piece of this row visits, once its tiles have been listed.
  RowEntries entries(std::int64_t piece) const { return entries_of_piece(listed_, piece, pieces_); }

  // Joins what another piece of the row left to what the scratch holds.
  void join(const ForwardScratch& piece, const RowEntries& entries, bool is_first) {
    const F32 d;
    if (measures_mass_) {
      const std::int64_t queries = problem_.grid.block_q;
      const std::int64_t begin = entries.begin * queries;
      const std::int64_t count = entries.end * queries - begin;
      std::copy_n(piece.tile_sum, count, scratch_.tile_sum + begin);
      std::copy_n(piece.tile_level, count, scratch_.tile_level + begin);
    } else {
      std::copy(piece.scores + entries.begin, piece.scores + entries.end,
                scratch_.scores + entries.begin);
    }
    for (std::ptrdiff_t lane = 0; lane < panels_ * width_; lane += hn::Lanes(d)) {
      const V32 old_max = is_first ? hn::Set(d, kFloor) : hn::Load(d, scratch_.row_max + lane);
      const V32 old_sum = is_first ? hn::Zero(d) : hn::Load(d, scratch_.row_sum + lane);
      const V32 max = hn::Load(d, piece.row_max + lane);
      const V32 new_max = hn::Max(old_max, max);
      const V32 keep = exp2(d, hn::Sub(old_max, new_max));
      const V32 factor = exp2(d, hn::Sub(max, new_max));
      const V32 sum = hn::Load(d, piece.row_sum + lane);
      hn::Store(hn::MulAdd(keep, old_sum, hn::Mul(factor, sum)), d, scratch_.row_sum + lane);
      hn::Store(new_max, d, scratch_.row_max + lane);
      const std::ptrdiff_t first = lane / width_ * width_ * head_dim_ + lane % width_;
      for (std::ptrdiff_t i = 0; i < head_dim_; ++i) {
        const std::ptrdiff_t at = first + i * width_;
        V32 joined = hn::Mul(factor, hn::Load(d, piece.out + at));
        if (!is_first) joined = hn::MulAdd(keep, hn::Load(d, scratch_.out + at), joined);
        hn::Store(joined, d, scratch_.out + at);
      }
    }
  }

  // Writes the results of the whole row, which the scratch holds.
  void finish() {
    if (pieces_ > 1) load_references();
    normalise();
    store_lse();
    with_element(problem_.outputs.out.dtype, [&](auto* element) HWY_ATTR {
      store_out<std::remove_pointer_t<decltype(element)>>();
    });
    if (decides_) store_decisions();
  }

 private:
  // Keys and values of a tile, or of tiles that are neighbours in memory and in the list.
  struct Run {
    TokenRows k, v;
    std::ptrdiff_t keys = 0;
    std::int64_t tiles = 1;
    bool descends = false;  // the list goes backwards in memory

    // Position in memory of the i-th tile in the order of the list.
    std::int64_t position(std::int64_t i) const { return descends ? tiles - 1 - i : i; }
  };
  static constexpr std::int64_t kMostTiles = ForwardScratch::kRunKeys / 64;

  std::int64_t list(const RowOfTiles& row) const {
    return problem_.list_tiles(row.batch, row.head, row.q_tile, scratch_.tiles);
  }

  // The run that begins at `entry` of the list, of which `end` is the end. Where values are left
  // out, every tile is a run, so that it can be left out alone.
  Run run_at(const RowOfTiles& row, std::int64_t entry, std::int64_t end) const {
    const std::int64_t block_k = problem_.grid.block_k;
    const std::int32_t* tiles = scratch_.tiles + entry;
    const std::int64_t most = leaves_out_values_ ? 1 : ForwardScratch::kRunKeys / block_k;
    const std::int64_t room = std::min(most, end - entry);
    const bool descends = room > 1 && tiles[1] + 1 == tiles[0];
    const std::int32_t step = descends ? -1 : 1;
    std::int64_t count = 1;
    while (count < room && tiles[count] == tiles[count - 1] + step) ++count;
    const std::int64_t first = std::min(tiles[0], tiles[count - 1]) * block_k;
    const PackedHead keys = row.keys.from(first);
    return {keys.k, keys.v, std::min(count * block_k, problem_.valid_keys(row.batch) - first),
            count, descends};
  }

  Run first_run_of_next_row() const {
    if (next_row_ == nullptr) return {};
    const RowEntries entries = entries_of_piece(list(*next_row_), next_row_->piece, pieces_);
    return entries.is_empty() ? Run() : run_at(*next_row_, entries.begin, entries.end);
  }

  // Queries of one panel of a row of tiles in q, or their rows of out.
  Region panel_region(const TensorView& tensor, const RowOfTiles& row, std::ptrdiff_t panel) const {
    const std::int64_t first = row.q_tile * problem_.grid.block_q + panel * width_;
    const std::int64_t rows = std::clamp<std::int64_t>(tensor.shape[2] - first, 0, width_);
    const std::ptrdiff_t element = static_cast<std::ptrdiff_t>(size_of(tensor.dtype));
    const std::int64_t offset =
        row.batch * tensor.strides[0] + row.head * tensor.strides[1] + first * tensor.strides[2];
    return {static_cast<const char*>(tensor.data) + offset * element, head_dim_ * element,
            tensor.strides[2] * element, rows};
  }

  void load_queries() {
    for (std::ptrdiff_t first = 0; first < queries_; first += width_) load_panel(first);
    load_references();
  }

  // Pairs stay unscaled: their logits are scaled instead, by a factor that is not negative.
  void load_panel(std::ptrdiff_t first) {
    const float scale = static_cast<float>(problem_.scale * std::numbers::log2e);
    const std::ptrdiff_t stride = problem_.q.strides[2];
    with_element_of<Word>(problem_.q.dtype, [&](auto* element) HWY_ATTR {
      using T = std::remove_pointer_t<decltype(element)>;
      rows_to_word_panel<Word>(row_of<T>(problem_.q, row_.batch, row_.head, first_query_ + first),
                               stride, queries_ - first, head_dim_, scale, width_,
                               scratch_.q + first * row_words_);
    });
  }

  void load_references() {
    // Lanes without a query stay out of every score: nothing rises above +inf.
    std::fill_n(scratch_.ref, panels_ * width_, kInfinity);
    for (std::int64_t i = 0; i < queries_; ++i) {
      scratch_.ref[i] =
          problem_.ref
              ? *(row_of<const float>(problem_.ref, row_.batch, row_.head, first_query_ + i)) *
                    kLog2e
              : 0.0f;
    }
  }

  // S, softmax and O of one run, panel by panel. This is the only place where attention happens: a
  // tile that is not listed is never loaded, multiplied or exponentiated. Meanwhile the `next` run
  // is fetched and, if this one is the last of the row, what the end of this row and the beginning
  // of the next one touch.
  void visit(std::int64_t entry, const Run& run, const Run& next, bool is_first, bool is_last) {
    const Region next_k = Region::of_words(next.k.words, row_words_, next.k.stride, next.keys);
    const Region next_v =
        Region::of_words(next.v.words, head_dim_, next.v.stride, words_of_keys(next.keys));
    V32 highest[kMostTiles], poison[kMostTiles];
    for (std::int64_t i = 0; i < kMostTiles; ++i) {
      highest[i] = hn::Set(F32(), -kInfinity);
      poison[i] = hn::Zero(F32());
    }
    for (std::ptrdiff_t panel = 0; panel < panels_; ++panel) {
      const Region out_rows = is_last ? panel_region(problem_.outputs.out, row_, panel) : Region();
      multiply_by_keys(panel, run, next_k.part(panel, panels_), out_rows);
      if (leaves_out_values_ && leave_out(panel, run, is_first, highest[0])) continue;
      const bool grew = softmax(panel, run, entry, is_first, highest, poison);
      const Product<RowsOfA::stand> o = {.a = run.v.words,
                                         .a_stride = run.v.stride,
                                         .b = scratch_.weights,
                                         .c = scratch_.out + panel * width_ * head_dim_,
                                         .rows = head_dim_,
                                         .depth = words_of_keys(run.keys)};
      const Prefetch prefetch(
          BlockCut(head_dim_).blocks(), next_v.part(panel, panels_),
          is_last && next_row_ ? panel_region(problem_.q, *next_row_, panel) : Region());
      if (is_first) {
        multiply<Start::zero, false, Word>(o, nullptr, nullptr, prefetch);
      } else if (grew) {
        multiply<Start::rescale, false, Word>(o, scratch_.factor, nullptr, prefetch);
      } else {
        multiply<Start::add, false, Word>(o, nullptr, nullptr, prefetch);
      }
    }
    for (std::int64_t i = 0; decides_ && !measures_mass_ && i < run.tiles; ++i) {
      scratch_.scores[entry + i] = score_of(highest[i], poison[i]);
    }
  }

  // The logits of one panel, and the largest ones of every tile. Fetches a part of both regions
  // with every tile.
  void multiply_by_keys(std::ptrdiff_t panel,
                        const Run& run,
                        const Region& ahead,
                        const Region& also_ahead) {
    const std::ptrdiff_t block_k = problem_.grid.block_k;
    for (std::int64_t i = 0; i < run.tiles; ++i) {
      const std::ptrdiff_t first = i * block_k;
      const std::ptrdiff_t keys = std::min(block_k, run.keys - first);
      std::fill_n(scratch_.tile_max + i * width_, width_, -kInfinity);
      const Product<RowsOfA::lie> s = {.a = run.k.words + first * run.k.stride,
                                       .a_stride = run.k.stride,
                                       .b = scratch_.q + panel * width_ * row_words_,
                                       .c = scratch_.logits + first * width_,
                                       .rows = keys,
                                       .depth = row_words_};
      multiply<Start::zero, true, Word>(s, nullptr, scratch_.tile_max + i * width_,
                                        Prefetch(BlockCut(keys).blocks(), ahead.part(i, run.tiles),
                                                 also_ahead.part(i, run.tiles)));
    }
  }

  // The score of one tile: the largest of all lanes, NaN if one of them has met NaN.
  static float score_of(V32 highest, V32 poison) {
    const F32 d;
    const bool has_nan = !hn::AllFalse(d, hn::IsNaN(poison));
    return has_nan ? std::numeric_limits<float>::quiet_NaN()
                   : hn::GetLane(hn::MaxOfLanes(d, highest));
  }

  // The online softmax of one panel: running maximum and sum, logits -> P. Returns whether the
  // maximum of a lane grew, in which case `factor` rescales what has been summed up so far. Scores
  // are those of a tile after the other, in the order of the list.
  bool softmax(std::ptrdiff_t panel,
               const Run& run,
               std::int64_t entry,
               bool is_first,
               V32* highest,
               V32* poison) {
    const F32 d;
    const std::ptrdiff_t lanes = hn::Lanes(d);
    bool grew = false;
    V32 old_max[2], new_max[2], sum[2];
    for (std::ptrdiff_t j = 0; j < 2; ++j) {
      const std::ptrdiff_t lane = panel * width_ + j * lanes;
      old_max[j] = is_first ? hn::Set(d, kFloor) : hn::Load(d, scratch_.row_max + lane);
      new_max[j] = old_max[j];
      for (std::int64_t i = 0; i < run.tiles; ++i) {
        new_max[j] = max_beside_nan(new_max[j], tile_max(i, j));
      }
      grew |= !hn::AllFalse(d, hn::Gt(new_max[j], old_max[j]));
      const V32 factor = exp2(d, hn::Sub(old_max[j], new_max[j]));
      sum[j] = is_first ? hn::Zero(d) : hn::Mul(hn::Load(d, scratch_.row_sum + lane), factor);
      hn::Store(factor, d, scratch_.factor + j * lanes);
      hn::Store(new_max[j], d, scratch_.row_max + lane);
    }
    for (std::int64_t i = 0; i < run.tiles; ++i) {
      V32 tile_sum[2];
      weigh(run, run.position(i), new_max, tile_sum);
      for (std::ptrdiff_t j = 0; j < 2; ++j) {
        sum[j] = hn::Add(sum[j], tile_sum[j]);
        if (!decides_) continue;
        const std::ptrdiff_t lane = panel * width_ + j * lanes;
        if (measures_mass_) {
          const std::int64_t at = row_of_masses(entry + i) + lane;
          hn::Store(tile_sum[j], d, scratch_.tile_sum + at);
          hn::Store(new_max[j], d, scratch_.tile_level + at);
          continue;
        }
        const V32 largest = tile_max(run.position(i), j);
        old_max[j] = max_beside_nan(old_max[j], largest);
        const V32 earlier = hn::Load(d, scratch_.earlier + lane);
        const V32 ref = hn::Load(d, scratch_.ref + lane);
        const V32 level = problem_.ref ? ref : hn::Add(hn::Max(old_max[j], earlier), ref);
        highest[i] = hn::Max(highest[i], hn::Sub(largest, level));
        // 0 * NaN: a row that has met NaN poisons the scores of its tile.
        poison[i] = hn::MulAdd(hn::Zero(d), hn::Add(sum[j], earlier), poison[i]);
      }
    }
    for (std::ptrdiff_t j = 0; j < 2; ++j) {
      hn::Store(sum[j], d, scratch_.row_sum + panel * width_ + j * lanes);
    }
    return grew;
  }

  // Whether all weights of a run of one tile are negligible in the rows of a panel, for which it is
  // over then. What softmax would tell of its score is told here. Rows that have met NaN, now or
  // before, leave nothing out.
  HWY_NOINLINE bool leave_out(std::ptrdiff_t panel, const Run& run, bool is_first, V32& highest) {
    const F32 d;
    const V32 threshold = hn::Set(d, static_cast<float>(*problem_.threshold));
    V32 rise[2];
    for (std::ptrdiff_t j = 0; j < 2; ++j) {
      const std::ptrdiff_t lane = panel * width_ + j * static_cast<std::ptrdiff_t>(hn::Lanes(d));
      const V32 max = is_first ? hn::Set(d, kFloor) : hn::Load(d, scratch_.row_max + lane);
      const V32 sum = is_first ? hn::Zero(d) : hn::Load(d, scratch_.row_sum + lane);
      const V32 earlier = hn::Load(d, scratch_.earlier + lane);
      const V32 largest = tile_max(0, j);
      const V32 running = hn::Max(max_beside_nan(max, largest), earlier);
      rise[j] = hn::Sub(largest, hn::Add(running, hn::Load(d, scratch_.ref + lane)));
      const bool has_met_nan = !hn::AllFalse(d, hn::IsNaN(hn::Add(sum, earlier)));
      if (has_met_nan || !hn::AllTrue(d, hn::Le(rise[j], threshold))) return false;
    }
    if (has_nan(scratch_.logits, run.keys * width_)) return false;
    highest = hn::Max(highest, hn::Max(rise[0], rise[1]));
    if (is_first) {
      std::fill_n(scratch_.row_max + panel * width_, width_, kFloor);
      std::fill_n(scratch_.row_sum + panel * width_, width_, 0.0f);
      std::fill_n(scratch_.out + panel * width_ * head_dim_, width_ * head_dim_, 0.0f);
    }
    return true;
  }

  // `count` fills whole vectors.
  static bool has_nan(const float* values, std::ptrdiff_t count) {
    const F32 d;
    auto found = hn::IsNaN(hn::Zero(d));
    for (std::ptrdiff_t i = 0; i < count; i += hn::Lanes(d)) {
      found = hn::Or(found, hn::IsNaN(hn::Load(d, values + i)));
    }
    return !hn::AllFalse(d, found);
  }

  // Words that hold so many keys of a tile.
  static std::ptrdiff_t words_of_keys(std::ptrdiff_t keys) {
    return (keys + Word::kElements - 1) / Word::kElements;
  }

  // A product of words in log2 units, less `max`.
  HWY_INLINE V32 below(V32 max, V32 product) const {
    if constexpr (Word::kElements == 1) return hn::Sub(product, max);
    return hn::MulSub(product, hn::Set(F32(), logit_scale_), max);
  }

  // The largest logits of one tile of a run, in the lanes of one of the panel's two vectors.
  V32 tile_max(std::int64_t position, std::ptrdiff_t vector) const {
    const F32 d;
    const V32 max = hn::Load(d, scratch_.tile_max + position * width_ + vector * width_ / 2);
    return below(hn::Zero(d), max);
  }

  // Logits -> P for the keys of one tile of a run, both vectors of the panel; their sums. What
  // moves pointers forward is shared by the two, and a constant: it takes issue slots as well.
  HWY_INLINE void weigh(const Run& run,
                        std::int64_t position,
                        const V32 (&max)[2],
                        V32 (&sums)[2]) const {
    const F32 d;
    const std::ptrdiff_t lanes = hn::Lanes(d);
    const std::ptrdiff_t width = 2 * lanes;
    const std::ptrdiff_t block_k = problem_.grid.block_k;
    const std::ptrdiff_t first = position * block_k;
    const std::ptrdiff_t keys = std::min(block_k, run.keys - first);
    const float* logits = scratch_.logits + first * width;
    float* weights = scratch_.weights + first / Word::kElements * width;
    const auto weight = [&](V32 row_max, const float* at) HWY_ATTR {
      return exp2<Word::kExpDegree>(d, below(row_max, hn::Load(d, at)));
    };
    V32 sum[2] = {hn::Zero(d), hn::Zero(d)};
    if constexpr (Word::kElements == 1) {
      for (const float* end = logits + keys * width; logits != end; logits += width) {
        for (std::ptrdiff_t j = 0; j < 2; ++j) {
          const V32 p = weight(max[j], logits + j * lanes);
          sum[j] = hn::Add(sum[j], p);
          hn::Store(p, d, weights + j * lanes);
        }
        weights += width;
      }
    } else {
      for (std::ptrdiff_t pair = 0; pair < keys / 2; ++pair) {
        for (std::ptrdiff_t j = 0; j < 2; ++j) {
          const V32 even = weight(max[j], logits + j * lanes);
          const V32 odd = weight(max[j], logits + width + j * lanes);
          sum[j] = hn::Add(sum[j], hn::Add(even, odd));
          hn::Store(Word::pair(even, odd), d, weights + j * lanes);
        }
        logits += 2 * width;
        weights += width;
      }
      for (std::ptrdiff_t j = 0; keys % 2 == 1 && j < 2; ++j) {
        const V32 last = weight(max[j], logits + j * lanes);
        sum[j] = hn::Add(sum[j], last);
        hn::Store(Word::pair(last, hn::Zero(d)), d, weights + j * lanes);
      }
    }
    sums[0] = sum[0];
    sums[1] = sum[1];
  }

  // The larger one; `max` where `other` is NaN, which the sums of P will show all the same.
  static V32 max_beside_nan(V32 max, V32 other) {
    return hn::IfThenElse(hn::IsNaN(other), max, hn::Max(max, other));
  }

  void remember_for_later_pieces() {
    const F32 d;
    for (std::ptrdiff_t lane = 0; pieces_ > 1 && lane < panels_ * width_; lane += hn::Lanes(d)) {
      const V32 max =
          hn::Max(hn::Load(d, scratch_.row_max + lane), hn::Load(d, scratch_.earlier + lane));
      const V32 sum = hn::Load(d, scratch_.row_sum + lane);
      const V32 nan_or_0 = hn::Mul(hn::Zero(d), hn::Add(sum, hn::Load(d, scratch_.earlier + lane)));
      hn::Store(hn::Add(max, nan_or_0), d, scratch_.earlier + lane);
    }
  }

  // lse and 1 / sum of every row; -inf and 0 for a row whose logits are all -inf, or that has none.
  void normalise() {
    for (std::int64_t i = 0; i < queries_; ++i) {
      const float sum = listed_ > 0 ? scratch_.row_sum[i] : 0.0f;
      const bool has_mass = std::isnan(sum) || (sum > 0 && scratch_.row_max[i] > kFloor);
      scratch_.lse[i] = has_mass ? scratch_.row_max[i] + std::log2(sum) : -kInfinity;
      scratch_.inverse_sum[i] = has_mass ? 1.0f / sum : 0.0f;
    }
  }

  // Rows of this row of tiles, those beyond q_lens included.
  std::int64_t rows() const {
    return std::min<std::int64_t>(problem_.grid.block_q, problem_.grid.q_len - first_query_);
  }

  void store_lse() {
    const TensorView& lse = problem_.outputs.lse;
    if (!lse) return;
    for (std::int64_t i = 0; i < rows(); ++i) {
      *row_of<float>(lse, row_.batch, row_.head, first_query_ + i) =
          i < queries_ ? scratch_.lse[i] * kLn2 : -kInfinity;
    }
  }

  template <typename T>
  void store_out() {
    const TensorView& out = problem_.outputs.out;
    const auto row = [&](std::int64_t i) {
      return row_of<T>(out, row_.batch, row_.head, first_query_ + i);
    };
    for (std::ptrdiff_t first = 0; listed_ > 0 && first < queries_; first += width_) {
      panel_to_rows(scratch_.out + first * head_dim_, width_, scratch_.inverse_sum + first,
                    row(first), out.strides[2], std::min<std::int64_t>(width_, queries_ - first),
                    head_dim_);
    }
    for (std::int64_t i = 0; i < rows(); ++i) {
      if (i >= queries_ || scratch_.inverse_sum[i] == 0.0f) std::fill_n(row(i), head_dim_, T{});
    }
  }

  // Rows without any mass, and lanes without a query, take no part.
  void measure_against_lse() {
    std::fill_n(scratch_.ref, panels_ * width_, kInfinity);
    for (std::int64_t i = 0; i < queries_; ++i) {
      if (scratch_.lse[i] != -kInfinity) scratch_.ref[i] = scratch_.lse[i];
    }
  }

  // Where the masses of a tile lie.
  std::int64_t row_of_masses(std::int64_t entry) const {
    return (entry - first_entry_) * problem_.grid.block_q;
  }

  // The score of a tile that is judged by its share of the softmax.
  float mass_score(std::int64_t entry) const {
    const F32 d;
    V32 sum = hn::Zero(d), largest = hn::Zero(d);
    for (std::ptrdiff_t lane = 0; lane < panels_ * width_; lane += hn::Lanes(d)) {
      const std::int64_t at = row_of_masses(entry) + lane;
      const V32 level =
          hn::Sub(hn::Load(d, scratch_.tile_level + at), hn::Load(d, scratch_.ref + lane));
      const V32 mass = hn::Mul(hn::Load(d, scratch_.tile_sum + at), exp2(d, level));
      sum = hn::Add(sum, mass);
      largest = hn::Max(largest, mass);
    }
    const float total = hn::GetLane(hn::SumOfLanes(d, sum));
    if (problem_.measure == Measure::mean_mass || std::isnan(total)) {
      return std::log2(total / static_cast<float>(queries_));
    }
    return std::log2(hn::GetLane(hn::MaxOfLanes(d, largest)));
  }

  // Scores and marks of the whole row of tiles, computed or not.
  void store_decisions() {
    const AttentionForwardOutputs& outputs = problem_.outputs;
    const TileGrid& grid = problem_.grid;
    const std::int64_t row = (row_.batch * grid.heads + row_.head) * grid.q_tiles() + row_.q_tile;
    float* scores = static_cast<float*>(outputs.scores.data) + row * grid.k_tiles();
    std::uint64_t* marks = outputs.marks ? outputs.marks.row(row) : nullptr;
    if (outputs.scores) std::fill_n(scores, grid.k_tiles(), -kInfinity);
    if (marks != nullptr) std::fill_n(marks, grid.words_per_row(), 0);
    if (measures_mass_) measure_against_lse();
    const bool is_complete = !problem_.is_partial;
    // A row without tiles has loaded no references.
    const float fall = problem_.ref && is_complete && listed_ > 0 ? largest_fall() : 0.0f;
    const double threshold = problem_.threshold.value_or(-kInfinity);
    for (std::int64_t entry = 0; entry < listed_; ++entry) {
      const std::int64_t tile = scratch_.tiles[entry];
      float score = measures_mass_ ? mass_score(entry) : scratch_.scores[entry] + fall;
      if (is_complete && score > 0.0f) score = 0.0f;
      if (outputs.scores) scores[tile] = score;
      if (marks != nullptr && threshold > -kInfinity && score <= threshold) {
        marks[tile / 64] |= std::uint64_t{1} << (tile % 64);
      }
    }
  }

  // Largest fall of lse since the step that `ref` comes from, log2 units; NaN if a row is NaN.
  float largest_fall() const {
    float fall = -kInfinity;
    for (std::int64_t i = 0; i < queries_; ++i) {
      const float row_fall = scratch_.ref[i] - scratch_.lse[i];
      if (std::isnan(row_fall)) return row_fall;
      fall = std::max(fall, row_fall);
    }
    return fall;
  }

  const ForwardProblem& problem_;
  const RowOfTiles& row_;
  const RowOfTiles* next_row_;
  const ForwardScratch& scratch_;
  const std::int64_t pieces_;
  const std::ptrdiff_t head_dim_;
  const std::ptrdiff_t row_words_;  // of a query or a key
  const std::int64_t first_query_;
  const std::int64_t queries_;
  const std::ptrdiff_t width_;
  const std::ptrdiff_t panels_;
  const bool decides_;
  const bool measures_mass_;
  const bool leaves_out_values_;
  const float logit_scale_;  // of products of pairs: how they become logits in log2 units
  std::int64_t listed_ = 0;
  std::int64_t first_entry_ = 0;  // of the piece
};

// Walks the pieces of a unit. `next`: what will probably be walked after it, or null.
void walk_unit(const ForwardProblem& problem,
               const ForwardLayout& layout,
               RowOfTiles row,
               const RowOfTiles* next,
               std::int64_t unit,
               int worker) {
  const std::int64_t first = unit * layout.pieces_per_unit;
  with_words(words_of(problem), [&](auto word) HWY_ATTR {
    for (std::int64_t i = 0; i < layout.pieces_per_unit; ++i, ++row.piece) {
      const ForwardScratch scratch = layout.piece_scratch(problem, worker, first + i);
      ForwardRow<decltype(word)> forward(problem, row, next, scratch, layout.pieces);
      forward.walk();
      if (layout.pieces == 1) forward.finish();
    }
  });
}

// Puts a row together whose pieces, the first of which is `first`, have been walked.
void join_pieces(const ForwardProblem& problem,
                 const ForwardLayout& layout,
                 const RowOfTiles& row,
                 std::int64_t first,
                 int worker) {
  const ForwardScratch scratch = layout.worker_scratch(problem, worker);
  with_words(words_of(problem), [&](auto word) HWY_ATTR {
    ForwardRow<decltype(word)> forward(problem, row, nullptr, scratch, layout.pieces);
    forward.list_tiles();
    bool is_first = true;
    for (std::int64_t piece = 0; piece < layout.pieces; ++piece) {
      const RowEntries entries = forward.entries(piece);
      if (entries.is_empty()) continue;
      forward.join(layout.piece_scratch(problem, worker, first + piece), entries, is_first);
      is_first = false;
    }
    forward.finish();
  });
}

}  // namespace saccade::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace saccade::cpu {
namespace {

HWY_EXPORT(forward_panel_width);
HWY_EXPORT(walk_unit);
HWY_EXPORT(join_pieces);

}  // namespace

int panel_rows() {
  return static_cast<int>(HWY_DYNAMIC_DISPATCH(forward_panel_width)());
}

std::size_t workspace_size(const ForwardProblem& problem, int workers) {
  Arena arena;
  ForwardLayout(arena, problem, workers, HWY_DYNAMIC_DISPATCH(forward_panel_width)());
  return arena.used();
}

void attention_forward(const Execution& execution, const ForwardProblem& problem) {
  Arena arena(execution.workspace);
  const ForwardLayout layout(arena, problem, execution.workers,
                             HWY_DYNAMIC_DISPATCH(forward_panel_width)());
  const std::int64_t key_heads = problem.grid.batch * problem.k_heads;
  for (std::int64_t begin = 0; begin < key_heads; begin += layout.group) {
    const HeadRange range = {begin, std::min(begin + layout.group, key_heads)};
    layout.packing.pack(execution, problem, range);
    const std::int64_t units = layout.list_units(problem, range);
    for_each_unit(execution, units, [&](int worker, std::int64_t unit) {
      const RowOfTiles row = layout.row_of_tiles(problem, range, unit);
      // All workers draw from one list: by then, each of the others has probably taken one more.
      const std::int64_t next = std::min(unit + execution.workers, units - 1);
      const RowOfTiles next_row = layout.row_of_tiles(problem, range, next);
      HWY_DYNAMIC_DISPATCH(walk_unit)
      (problem, layout, row, next > unit ? &next_row : nullptr, unit, worker);
    });
    if (layout.pieces == 1) continue;
    const std::int64_t units_per_row = layout.pieces / layout.pieces_per_unit;
    for_each_unit(execution, units / units_per_row, [&](int worker, std::int64_t row) {
      HWY_DYNAMIC_DISPATCH(join_pieces)
      (problem, layout, layout.row_of_tiles(problem, range, row * units_per_row),
       row * layout.pieces, worker);
    });
  }
}

}  // namespace saccade::cpu

#endif

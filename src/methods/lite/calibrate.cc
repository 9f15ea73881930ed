#include "core/require.h"
#include "core/validate.h"
#include "methods/lite/calibration_finding.h"
#include "methods/lite/score_counts.h"
#include "methods/lite/threshold_search.h"

#include <saccade/calibrate.h>
#include <saccade/error.h>

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

namespace saccade::lite {
namespace {

constexpr double kDropsNothing = -std::numeric_limits<double>::infinity();
constexpr float kFirstShare = 0.5f;  // tried after a dense step

DType statistics_dtype(const TensorView& q) {
  return q.dtype == DType::f64 ? DType::f64 : DType::f32;
}

void require_options(const CalibrationOptions& options) {
  validate(options.rule);
  if (options.rule.mass_budget || options.rule.reprobe_period > 0) {
    throw InvalidArgument(
        fmt::format("the rule has a {}, but calibration chooses thresholds of rules without one",
                    options.rule.mass_budget ? "mass_budget" : "reprobe_period"));
  }
  if (options.rule.skips_values) {
    throw InvalidArgument(
        "the rule has skips_values, but calibration measures what dropped tiles lose at later "
        "steps only; leave it out");
  }
  if (options.rule.order == Order::strongest) {
    throw InvalidArgument(fmt::format(
        "the order is {}, but calibration keeps no scores of dropped tiles to sort by; calibrate "
        "with {} or {}, or give the order {} a flat threshold",
        name_of(options.rule.order), name_of(Order::linear), name_of(Order::radial),
        name_of(options.rule.order)));
  }
  if (!(options.target >= 0)) {
    throw InvalidArgument(fmt::format("target is {}, but must be at least 0", options.target));
  }
  if (!(options.most_work >= 1)) {
    throw InvalidArgument(fmt::format(
        "most_work is {}, but must be at least 1: the search needs one call", options.most_work));
  }
  if (options.step < 0) {
    throw InvalidArgument(fmt::format("step is {}, but must be at least 0", options.step));
  }
}

void require_state(const AttentionInputs& inputs,
                   const CalibrationOptions& options,
                   const CalibrationStateView& state) {
  if (inputs.tiles || inputs.ref) {
    throw InvalidArgument(fmt::format("inputs.{} is given, but calibration decides what it is",
                                      inputs.tiles ? "tiles" : "ref"));
  }
  const TileGrid& grid = state.mask.grid;
  validate(grid);
  require_mask("state.mask", state.mask, grid);
  require_tensor("state.scores", state.scores, DType::f32,
                 {grid.batch, grid.heads, grid.q_tiles(), grid.k_tiles()});
  require_packed("state.scores", state.scores);
  require_tensor("state.shares", state.shares, DType::f32, {grid.heads});
  require_packed("state.shares", state.shares);
  if (options.rule.reference == Reference::lse) {
    require_tensor("state.ref", state.ref, statistics_dtype(inputs.q),
                   {grid.batch, grid.heads, grid.q_len});
    require_packed("state.ref", state.ref);
  } else if (state.ref) {
    throw InvalidArgument("state.ref is given, but the running reference has no use for it");
  }
}

// Heads that have one threshold, and the search for it.
struct Group {
  std::vector<std::int64_t> heads;
  ThresholdSearch search;
};

// Thresholds that are tried together, and the tiles that they leave in the heads of these groups.
struct Round {
  std::vector<Group*> groups;
  std::vector<double> thresholds;  // one for each head
  TileMask mask;
};

// One step of one layer and branch.
class Calibration {
 public:
  Calibration(const Context& context,
              const AttentionInputs& inputs,
              const CalibrationOptions& options,
              const CalibrationStateView& state,
              const TensorView& out)
      : context_(context),
        inputs_(inputs),
        options_(options),
        state_(state),
        grid_(state.mask.grid),
        out_(out),
        best_(state),
        trial_(state),
        trial_bytes_(inputs.q.element_count() * size_of(inputs.q.dtype)),
        trial_out_(TensorView::contiguous(
            trial_bytes_.data(), inputs.q.dtype, std::span(inputs.q.shape).first(4))) {
    result_.thresholds.assign(grid_.heads, kDropsNothing);
    result_.errors.resize(grid_.heads);
  }

  CalibratedStep run() {
    if (options_.is_dense || options_.step == 0) {
      start();
    } else {
      attend(tiles_of_dense(), {.out = out_});
      search();
    }
    best_.write_to(state_);
    result_.computed_tiles = best_.mask.count();
    return result_;
  }

  std::vector<std::int64_t> observe() {
    best_.mask = tiles_of_dense();
    attend(best_.mask, {.out = out_, .lse = best_.lse, .scores = best_.scores});
    std::vector<std::int64_t> skipped(predicted_thresholds().size(), 0);
    if (!options_.is_dense && options_.step > 0) {
      const std::span lowest(static_cast<float*>(state_.scores.data), best_.score_values.size());
      skipped = count_at_most(lowest, predicted_thresholds());
      for (std::size_t i = 0; i < lowest.size(); ++i) {
        best_.score_values[i] = std::min(best_.score_values[i], lowest[i]);
      }
    }
    best_.write_to(state_);
    return skipped;
  }

 private:
  float& share(std::int64_t head) const { return static_cast<float*>(state_.shares.data)[head]; }

  // A dense step leaves every tile, whatever was dropped before.
  void start();

  void search();
  std::vector<Group> groups() const;
  std::vector<float> scores_of(const std::vector<std::int64_t>& heads) const;
  Round next_round(std::vector<Group>& all) const;
  Round round_without_change(std::vector<Group>& all) const;
  Round round_of(std::vector<Group*> groups, std::vector<double> thresholds) const;
  bool can_afford(const Round& round, const std::vector<Group>& all) const;
  std::vector<ErrorSums> try_out(const Round& round);
  void keep(const Group& group, const Round& round, const std::vector<ErrorSums>& errors);

  TileMask tiles_of_dense() const;
  ComputedTilesOptions selection(bool is_dense) const;
  void attend(const TileMask& tiles, const AttentionForwardOutputs& outputs) const;

  const Context& context_;
  const AttentionInputs& inputs_;
  const CalibrationOptions& options_;
  const CalibrationStateView& state_;
  const TileGrid& grid_;
  const TensorView& out_;
  Finding best_, trial_;
  std::vector<std::byte> trial_bytes_;
  TensorView trial_out_;
  CalibratedStep result_;
};

void Calibration::start() {
  best_.mask = tiles_of_dense();
  attend(best_.mask, {.out = out_, .lse = best_.lse, .scores = best_.scores});
  result_.errors = measure_errors(context_, out_, out_);
  for (std::int64_t head = 0; head < grid_.heads; ++head) share(head) = kFirstShare;
}

void Calibration::search() {
  std::vector<Group> all = groups();
  for (Round round = next_round(all); !round.groups.empty() && can_afford(round, all);
       round = next_round(all)) {
    const std::vector<ErrorSums> errors = try_out(round);
    for (Group* group : round.groups) {
      ErrorSums sums;
      for (const std::int64_t head : group->heads) sums += errors[head];
      if (group->search.tell(sums.relative_l1())) keep(*group, round, errors);
    }
  }
  if (const Round round = round_without_change(all); !round.groups.empty()) {
    const std::vector<ErrorSums> errors = try_out(round);
    for (const Group* group : round.groups) keep(*group, round, errors);
  }
}

std::vector<Group> Calibration::groups() const {
  std::vector<std::vector<std::int64_t>> of_heads(options_.by_head ? grid_.heads : 1);
  for (std::int64_t head = 0; head < grid_.heads; ++head) {
    of_heads[options_.by_head ? head : 0].push_back(head);
  }
  std::vector<Group> groups;
  for (std::vector<std::int64_t>& heads : of_heads) {
    ThresholdSearch search(scores_of(heads), options_.target, share(heads.front()));
    groups.push_back({std::move(heads), std::move(search)});
  }
  return groups;
}

std::vector<float> Calibration::scores_of(const std::vector<std::int64_t>& heads) const {
  const std::int64_t tiles = grid_.q_tiles() * grid_.k_tiles();
  std::vector<float> scores;
  for (std::int64_t batch = 0; batch < grid_.batch; ++batch) {
    for (const std::int64_t head : heads) {
      const auto* first =
          static_cast<const float*>(state_.scores.data) + (batch * grid_.heads + head) * tiles;
      scores.insert(scores.end(), first, first + tiles);
    }
  }
  return scores;
}

Round Calibration::next_round(std::vector<Group>& all) const {
  std::vector<Group*> trying;
  std::vector<double> thresholds(grid_.heads, kDropsNothing);
  for (Group& group : all) {
    const std::optional<double> threshold = group.search.next();
    if (!threshold) continue;
    trying.push_back(&group);
    for (const std::int64_t head : group.heads) thresholds[head] = *threshold;
  }
  return round_of(std::move(trying), std::move(thresholds));
}

// What is left to groups in which no threshold kept the target.
Round Calibration::round_without_change(std::vector<Group>& all) const {
  std::vector<Group*> left;
  for (Group& group : all) {
    if (!group.search.has_best()) left.push_back(&group);
  }
  return round_of(std::move(left), std::vector<double>(grid_.heads, kDropsNothing));
}

Round Calibration::round_of(std::vector<Group*> groups, std::vector<double> thresholds) const {
  TileMask mask(grid_);
  update_mask(context_, {.mask = state_.mask, .computed = state_.mask, .scores = state_.scores},
              {.head_thresholds = thresholds,
               .protected_queries = options_.protected_queries,
               .protected_keys = options_.protected_keys},
              {.next = mask.view()});
  computed_tiles(context_, mask.view(), selection(false), mask.view());
  std::vector<bool> is_tried(grid_.heads, false);
  for (const Group* group : groups) {
    for (const std::int64_t head : group->heads) is_tried[head] = true;
  }
  for (std::int64_t head = 0; head < grid_.heads; ++head) {
    if (!is_tried[head]) clear_head(mask.view(), head);
  }
  return {std::move(groups), std::move(thresholds), std::move(mask)};
}

// A group without a threshold will need a call over what it has now.
bool Calibration::can_afford(const Round& round, const std::vector<Group>& all) const {
  TileMask reserved(grid_);
  std::copy_n(state_.mask.words, grid_.words(), reserved.view().words);
  for (const Group& group : all) {
    if (!group.search.has_best()) continue;
    for (const std::int64_t head : group.heads) clear_head(reserved.view(), head);
  }
  const auto cost = result_.searched_tiles + round.mask.count() + reserved.count();
  return static_cast<double>(cost) <= options_.most_work * static_cast<double>(grid_.tiles());
}

std::vector<ErrorSums> Calibration::try_out(const Round& round) {
  trial_.mask = round.mask;
  attend(round.mask, {.out = trial_out_, .lse = trial_.lse, .scores = trial_.scores});
  result_.searched_tiles += round.mask.count();
  return measure_errors(context_, trial_out_, out_);
}

void Calibration::keep(const Group& group,
                       const Round& round,
                       const std::vector<ErrorSums>& errors) {
  for (const std::int64_t head : group.heads) {
    best_.take_head(trial_, head);
    result_.thresholds[head] = round.thresholds[head];
    result_.errors[head] = errors[head];
    share(head) = static_cast<float>(group.search.best_share());
  }
}

TileMask Calibration::tiles_of_dense() const {
  TileMask mask(grid_);
  computed_tiles(context_, mask.view(), selection(true), mask.view());
  return mask;
}

ComputedTilesOptions Calibration::selection(bool is_dense) const {
  return {.is_dense = is_dense,
          .protected_queries = options_.protected_queries,
          .protected_keys = options_.protected_keys,
          .skipped_queries = options_.skipped_queries,
          .skipped_keys = options_.skipped_keys};
}

void Calibration::attend(const TileMask& tiles, const AttentionForwardOutputs& outputs) const {
  AttentionInputs computed = inputs_;
  if (tiles.count() < grid_.tiles()) computed.tiles = tiles.view();
  if (options_.step > 0 && outputs.scores) computed.ref = state_.ref;
  attention_forward(context_, computed,
                    {.scale = options_.scale,
                     .measure = options_.rule.measure,
                     .order = visit_order(options_.rule.order, options_.step),
                     .block_q = grid_.block_q,
                     .block_k = grid_.block_k},
                    outputs);
}

}  // namespace

CalibratedStep calibrate_step(const Context& context,
                              const AttentionInputs& inputs,
                              const CalibrationOptions& options,
                              const CalibrationStateView& state,
                              const TensorView& out) {
  require_options(options);
  require_state(inputs, options, state);
  return Calibration(context, inputs, options, state, out).run();
}

std::vector<std::int64_t> observe_step(const Context& context,
                                       const AttentionInputs& inputs,
                                       const CalibrationOptions& options,
                                       const CalibrationStateView& state,
                                       const TensorView& out) {
  require_options(options);
  require_state(inputs, options, state);
  return Calibration(context, inputs, options, state, out).observe();
}

std::vector<double> error_targets(double level, double slope, std::int64_t steps) {
  if (!(slope >= 0 && slope < level)) {
    throw InvalidArgument(
        fmt::format("the slope of the error targets is {}, but must be at least 0 and less than "
                    "their level, {}",
                    slope, level));
  }
  if (steps < 1) throw InvalidArgument(fmt::format("steps is {}, but must be at least 1", steps));
  std::vector<double> targets;
  for (std::int64_t step = 0; step < steps; ++step) {
    targets.push_back(level + slope * static_cast<double>(3 * step / steps - 1));
  }
  return targets;
}

}  // namespace saccade::lite

#include "commands.h"
#include "host_tensor.h"
#include "input_file.h"
#include "progress_line.h"

#include <saccade/calibrate.h>
#include <saccade/error.h>
#include <saccade/info.h>
#include <saccade/output_file.h>
#include <saccade/trace.h>

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace saccade::cli {
namespace {

constexpr double kDropsNothing = -std::numeric_limits<double>::infinity();

struct CalibrateOptions {
  std::string trace_path;
  std::string schedule_path;
  std::string out_path;
  std::vector<double> errors = {0.075};
  double slope = 0.01;
  std::optional<double> sparsity;
  std::optional<std::int64_t> dense_first_steps;
  Measure measure = Measure::largest_weight;
  lite::Reference reference = lite::Reference::running;
  lite::Order order = lite::Order::linear;
  int block_q = 128;
  int block_k = 64;
  bool has_common_threshold = false;
};

// One layer and branch: the state of calibrate_step, and what it found at each step.
struct Stream {
  Stream(const TraceCall& call, const CalibrateOptions& options)
      : mask(TileGrid{.batch = call.q.shape[0],
                      .heads = call.q.shape[1],
                      .q_len = call.q.shape[2],
                      .k_len = call.k.shape[2],
                      .block_q = options.block_q,
                      .block_k = options.block_k}),
        scores(DType::f32, {grid().batch, grid().heads, grid().q_tiles(), grid().k_tiles()}),
        shares(DType::f32, {grid().heads}),
        ref(DType::f32, {grid().batch, grid().heads, grid().q_len}),
        out(call.q.dtype, {call.q.shape[0], call.q.shape[1], call.q.shape[2], call.q.shape[3]}) {}

  const TileGrid& grid() const { return mask.grid(); }
  lite::CalibrationStateView view(lite::Reference reference) const {
    return {.mask = mask.view(),
            .scores = scores.view(),
            .ref = reference == lite::Reference::lse ? ref.view() : TensorView{},
            .shares = shares.view()};
  }

  TileMask mask;
  HostTensor scores, shares, ref, out;
  std::vector<lite::CalibratedStep> steps;
};

using Streams = std::map<std::pair<std::string, std::string>, Stream>;  // by layer and branch

struct Totals {
  std::int64_t tiles = 0, computed = 0, searched = 0;
  std::vector<std::int64_t> skipped;
};

// What is dense, and which tokens are special.
lite::Schedule base_of(const CalibrateOptions& options, const Trace& trace) {
  lite::Schedule base;
  if (!options.schedule_path.empty()) {
    base = lite::schedule_from_json(read_file(options.schedule_path));
  }
  base.threshold = lite::Schedule{}.threshold;
  base.thresholds.clear();
  base.head_thresholds.clear();
  base.layer_thresholds.clear();
  base.fingerprint.reset();
  base.calibration.reset();
  base.num_steps = trace.info().num_steps;
  base.dense_first_steps = options.dense_first_steps.value_or(base.dense_first_steps);
  lite::require_layers(base, trace.layers());
  return base;
}

lite::CalibrationOptions options_of(const CalibrateOptions& options,
                                    const lite::Schedule& base,
                                    const Trace& trace,
                                    const TraceCall& call) {
  const lite::StepPlan plan = lite::plan_step(base, {.step = call.step,
                                                     .sigma = call.sigma,
                                                     .layer = call.layer,
                                                     .heads = call.q.shape[1],
                                                     .length = call.q.shape[2]});
  return {
      .rule = {.measure = options.measure, .reference = options.reference, .order = options.order},
      .step = call.step,
      .is_dense = plan.is_dense,
      .by_head = !options.has_common_threshold,
      .scale = trace.info().scale,
      .protected_queries = base.must_do_queries,
      .protected_keys = base.must_do_keys,
      .skipped_queries = base.must_skip_queries,
      .skipped_keys = base.must_skip_keys};
}

std::vector<double> targets_of(const CalibrateOptions& options, std::int64_t steps) {
  if (options.errors.size() == 1) {
    return lite::error_targets(options.errors.front(), options.slope, steps);
  }
  if (static_cast<std::int64_t>(options.errors.size()) != steps) {
    throw InvalidArgument(
        fmt::format("--error has {} values, but the generation has {} steps; give one for each, or "
                    "a single one",
                    options.errors.size(), steps));
  }
  return options.errors;
}

// Every layer and branch has all steps, one after the other.
Stream& stream_of(Streams& streams, const TraceCall& call, const CalibrateOptions& options) {
  Stream& stream = streams.try_emplace({call.layer, call.branch}, call, options).first->second;
  if (static_cast<std::int64_t>(stream.steps.size()) != call.step) {
    throw InvalidArgument(fmt::format(
        "the trace has step {} of {} ({}) where step {} should follow; calibration needs all of "
        "them",
        call.step, call.layer, call.branch, stream.steps.size()));
  }
  return stream;
}

void require_all_steps(const Streams& streams, std::int64_t steps) {
  for (const auto& [name, stream] : streams) {
    if (static_cast<std::int64_t>(stream.steps.size()) == steps) continue;
    throw InvalidArgument(fmt::format(
        "the trace ends with step {} of {} ({}), but the generation has {} steps; "
        "calibration needs all of them",
        static_cast<std::int64_t>(stream.steps.size()) - 1, name.first, name.second, steps));
  }
}

// Walks the trace, step by step.
Streams walk(const CalibrateOptions& options,
             const lite::Schedule& base,
             const Trace& trace,
             Totals& totals) {
  const std::vector<double> targets = targets_of(options, base.num_steps);
  totals.skipped.assign(lite::predicted_thresholds().size(), 0);
  ProgressLine progress;
  Streams streams;
  std::size_t number = 0;
  for (const TraceCall& call : trace.calls()) {
    progress.show(fmt::format("call {} of {}", ++number, trace.calls().size()));
    Stream& stream = stream_of(streams, call, options);
    lite::CalibrationOptions step = options_of(options, base, trace, call);
    step.target = targets[call.step];
    const AttentionInputs inputs{.q = call.q, .k = call.k, .v = call.v};
    const lite::CalibrationStateView state = stream.view(options.reference);
    lite::CalibratedStep found;
    if (options.sparsity) {
      const auto skipped = lite::observe_step({}, inputs, step, state, stream.out.view());
      for (std::size_t i = 0; i < skipped.size(); ++i) totals.skipped[i] += skipped[i];
    } else {
      found = lite::calibrate_step({}, inputs, step, state, stream.out.view());
    }
    totals.tiles += stream.grid().tiles();
    totals.computed += found.computed_tiles;
    totals.searched += found.searched_tiles;
    stream.steps.push_back(std::move(found));
  }
  require_all_steps(streams, base.num_steps);
  return streams;
}

std::vector<std::string> branches_of(const Streams& streams, const std::string& layer) {
  std::vector<std::string> branches;
  for (const auto& [name, stream] : streams) {
    if (name.first == layer) branches.push_back(name.second);
  }
  return branches;
}

// The strictest of all branches, [step][head]: those of step i were found at step i + 1.
std::vector<std::vector<double>> thresholds_of(const Streams& streams,
                                               const std::string& layer,
                                               std::int64_t steps) {
  std::vector<std::vector<double>> thresholds;
  for (const std::string& branch : branches_of(streams, layer)) {
    const Stream& stream = streams.at({layer, branch});
    if (thresholds.empty()) {
      thresholds.assign(steps, std::vector<double>(stream.grid().heads, 0.0));
      thresholds.back().assign(stream.grid().heads, kDropsNothing);  // no step follows
    }
    for (std::int64_t step = 0; step + 1 < steps; ++step) {
      const std::vector<double>& found = stream.steps[step + 1].thresholds;
      std::ranges::transform(thresholds[step], found, thresholds[step].begin(),
                             [](double a, double b) { return std::min(a, b); });
    }
  }
  return thresholds;
}

lite::StepErrors errors_of(const Streams& streams, const std::string& layer, std::int64_t steps) {
  lite::StepErrors errors;
  for (std::int64_t step = 0; step < steps; ++step) {
    lite::ErrorSums sums;
    for (const std::string& branch : branches_of(streams, layer)) {
      for (const lite::ErrorSums& of_head : streams.at({layer, branch}).steps[step].errors) {
        sums += of_head;
      }
    }
    errors.relative_l1.push_back(sums.relative_l1());
    errors.rmse.push_back(sums.relative_rmse());
    errors.cosine.push_back(sums.cosine());
  }
  return errors;
}

lite::Fingerprint fingerprint_of(const CalibrateOptions& options, const Trace& trace) {
  const TraceInfo& info = trace.info();
  const TraceCall& call = trace.calls().front();
  return {.model = info.model,
          .layers = static_cast<std::int64_t>(trace.layers().size()),
          .heads = call.q.shape[1],
          .head_dim = call.q.shape[3],
          .length = std::max(call.q.shape[2], call.k.shape[2]),
          .steps = info.num_steps,
          .rule = "threshold",
          .measure = std::string(name_of(options.measure)),
          .reference = std::string(name_of(options.reference)),
          .order = std::string(name_of(options.order)),
          .block_q = options.block_q,
          .block_k = options.block_k,
          .token_order = info.token_order,
          .saccade_version = std::string(version())};
}

double share_of(std::int64_t part, std::int64_t tiles) {
  return static_cast<double>(part) / static_cast<double>(tiles);
}

void set_thresholds(lite::Schedule& schedule,
                    const CalibrateOptions& options,
                    const Streams& streams,
                    const Trace& trace) {
  schedule.threshold = kDropsNothing;
  for (const std::string& layer : trace.layers()) {
    if (lite::is_dense_layer(schedule, layer)) continue;
    lite::LayerThresholds entry{.layers = layer};
    for (std::vector<double>& step : thresholds_of(streams, layer, schedule.num_steps)) {
      if (options.has_common_threshold) {
        entry.thresholds.push_back(step.front());
      } else {
        entry.step_head_thresholds.push_back(std::move(step));
      }
    }
    schedule.layer_thresholds.push_back(std::move(entry));
    schedule.calibration->layers.push_back({layer, errors_of(streams, layer, schedule.num_steps)});
  }
}

lite::Schedule calibrate(const CalibrateOptions& options, const Trace& trace) {
  lite::Schedule schedule = base_of(options, trace);
  Totals totals;
  const Streams streams = walk(options, schedule, trace, totals);
  schedule.fingerprint = fingerprint_of(options, trace);
  lite::CalibrationRecord& record = schedule.calibration.emplace();
  record.work = 1 + share_of(totals.searched, totals.tiles);
  if (options.sparsity) {
    const lite::FlatThreshold chosen =
        lite::choose_threshold(totals.skipped, totals.tiles, *options.sparsity);
    schedule.threshold = chosen.threshold;
    record.target = "sparsity";
    record.targets = {*options.sparsity};
    record.sparsity = chosen.sparsity;
  } else {
    record.target = "error";
    record.targets = targets_of(options, schedule.num_steps);
    record.sparsity = 1 - share_of(totals.computed, totals.tiles);
    set_thresholds(schedule, options, streams, trace);
  }
  return schedule;
}

void print_errors(const lite::CalibrationRecord& record) {
  if (record.layers.empty()) return;
  fmt::print("\n{:<6}{:>10}{:>15}{:>15}\n", "step", "target", "mean rel. L1", "largest");
  for (std::size_t step = 0; step < record.targets.size(); ++step) {
    double sum = 0, largest = 0;
    for (const lite::LayerErrors& layer : record.layers) {
      sum += layer.errors.relative_l1[step];
      largest = std::max(largest, layer.errors.relative_l1[step]);
    }
    fmt::print("{:<6}{:>10.4f}{:>15.5f}{:>15.5f}\n", step, record.targets[step],
               sum / static_cast<double>(record.layers.size()), largest);
  }
}

void run_calibrate(const CalibrateOptions& options) {
  const Trace trace = Trace::open(options.trace_path);
  const lite::Schedule schedule = calibrate(options, trace);
  std::vector<double> sigmas;
  for (const TraceCall& call : trace.calls()) {
    if (call.step == std::ssize(sigmas)) sigmas.push_back(call.sigma);
  }
  fmt::print("{}",
             lite::to_text(lite::resolve(schedule, {.layers = trace.layers(),
                                                    .sigmas = sigmas,
                                                    .heads = schedule.fingerprint->heads,
                                                    .length = schedule.fingerprint->length})));
  print_errors(*schedule.calibration);
  fmt::print(
      "\n{:.1f} % of the tiles skipped{}; attention computed {:.2f} times that of the trace\n",
      100 * schedule.calibration->sparsity, options.sparsity ? " (predicted)" : "",
      schedule.calibration->work);
  OutputFile file(options.out_path);
  file.append(lite::to_json(schedule));
  file.commit();
  fmt::print("schedule: {}\n", options.out_path);
}

}  // namespace

void add_calibrate_command(CLI::App& app, Invocation&) {
  CLI::App* command = app.add_subcommand(
      "calibrate", "Make a schedule of LiteAttention from the trace of a dense generation");
  const auto options = std::make_shared<CalibrateOptions>();
  command->add_option("trace", options->trace_path, "File of a trace")
      ->required()
      ->check(CLI::ExistingFile);
  command->add_option("--json", options->out_path, "File that the schedule is written to")
      ->required();
  CLI::Option* error = command
                           ->add_option("--error", options->errors,
                                        "Relative L1 error of each call: one, or one for each step")
                           ->delimiter(',')
                           ->capture_default_str();
  command
      ->add_option("--slope", options->slope,
                   "By which a single error is less in the first third of the steps, and more in "
                   "the last")
      ->capture_default_str();
  command
      ->add_option("--sparsity", options->sparsity,
                   "Instead of an error: share of the tiles to skip, by one threshold")
      ->excludes(error);
  command
      ->add_option("--schedule", options->schedule_path,
                   "JSON file that says what is dense, and which tokens are special")
      ->check(CLI::ExistingFile);
  command->add_option("--dense-first-steps", options->dense_first_steps,
                      "Steps at the start that compute every tile (default: 1)");
  command
      ->add_option("--measure", options->measure, "What of a tile is compared with the threshold")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, Measure>{{"largest_weight", Measure::largest_weight},
                                         {"largest_mass", Measure::largest_mass},
                                         {"mean_mass", Measure::mean_mass}}));
  command->add_option("--reference", options->reference, "What weights are measured against")
      ->transform(CLI::CheckedTransformer(std::map<std::string, lite::Reference>{
          {"running", lite::Reference::running}, {"lse", lite::Reference::lse}}));
  command->add_option("--order", options->order, "In which a row visits its tiles")
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, lite::Order>{{"linear", lite::Order::linear},
                                             {"reversed", lite::Order::reversed},
                                             {"alternating", lite::Order::alternating},
                                             {"radial", lite::Order::radial},
                                             {"strongest", lite::Order::strongest}}));
  command->add_option("--block-q", options->block_q, "Tile height")
      ->check(CLI::IsMember({64, 128}))
      ->capture_default_str();
  command->add_option("--block-k", options->block_k, "Tile width")
      ->check(CLI::IsMember({64, 128}))
      ->capture_default_str();
  command->add_flag("--common-threshold", options->has_common_threshold,
                    "One threshold for all heads of a layer, not one for each");
  command->callback([options] { run_calibrate(*options); });
}

}  // namespace saccade::cli

#include "commands.h"
#include "host_tensor.h"
#include "machine.h"
#include "progress_line.h"
#include "replay/analysis.h"
#include "replay/method_flags.h"
#include "replay/quality.h"

#include <saccade/attention.h>
#include <saccade/executor.h>
#include <saccade/output_file.h>
#include <saccade/trace.h>

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace saccade::cli {
namespace {

struct ReplayOptions {
  explicit ReplayOptions(CLI::App& command) : method(command) {}

  MethodFlags method;
  std::string trace_path;
  bool per_layer = false;
  bool analyses = false;
  int threads = 0;  // 0 = the library's default
  std::string json_path;
};

struct ReplayedCall {
  const TraceCall* call;
  Quality quality;
};

double seconds_of(const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Room for the outputs of a call.
struct Outputs {
  explicit Outputs(const TraceCall& call)
      : out(call.q.dtype, {call.q.shape[0], call.q.shape[1], call.q.shape[2], call.q.shape[3]}),
        lse(DType::f32, {call.q.shape[0], call.q.shape[1], call.q.shape[2]}) {}

  MethodOutputs views() const { return {out.view(), lse.view()}; }

  HostTensor out, lse;
};

double run_dense(const Context& context,
                 const Trace& trace,
                 const TraceCall& call,
                 const Outputs& outputs) {
  return seconds_of([&] {
    attention_forward(context, {.q = call.q, .k = call.k, .v = call.v},
                      {.scale = trace.info().scale},
                      {.out = outputs.out.view(), .lse = outputs.lse.view()});
  });
}

Quality replay(const Context& context, const Trace& trace, const TraceCall& call, Method& method) {
  const Outputs dense(call), sparse(call);
  const double dense_seconds = run_dense(context, trace, call, dense);
  TileMaskView tiles;
  const double seconds = seconds_of([&] { tiles = method.run(context, call, sparse.views()); });
  Quality quality = compare(sparse.views(), dense.views(), tiles);
  quality.seconds = seconds;
  quality.dense_seconds = dense_seconds;
  return quality;
}

std::vector<ReplayedCall> replay(const Context& context, const Trace& trace, Method& method) {
  ProgressLine progress;
  std::vector<ReplayedCall> calls;
  const TraceCall& first = trace.calls().front();
  run_dense(context, trace, first, Outputs(first));  // threads start, the file is read
  for (const TraceCall& call : trace.calls()) {
    progress.show(fmt::format("call {} of {}", calls.size() + 1, trace.calls().size()));
    calls.push_back({&call, replay(context, trace, call, method)});
  }
  return calls;
}

void print_trace(const Trace& trace) {
  const TraceInfo& info = trace.info();
  const TraceCall& call = trace.calls().front();
  fmt::print(
      "trace of {} (saccade {}), {} calls; layers: {}, branches: {}, steps of the generation: {}\n",
      info.model.empty() ? "an unnamed model" : info.model, info.saccade_version,
      trace.calls().size(), trace.layers().size(), trace.branches().size(), info.num_steps);
  fmt::print("{}: batch {}, {} heads, {} queries, {} keys, head_dim {}", name_of(call.q.dtype),
             call.q.shape[0], call.q.shape[1], call.q.shape[2], call.k.shape[2], call.q.shape[3]);
  if (info.video) {
    fmt::print("; {} frames of {} x {} tokens", info.video->frames, info.video->height,
               info.video->width);
  }
  fmt::print("\n");
}

constexpr const char* kColumns =
    "{:>6}{:>8}  {:<{}}{:>10}{:>11}{:>11}{:>10}{:>10}{:>11}{:>11}{:>10}\n";

void print_heading(std::size_t width) {
  fmt::print(kColumns, "step", "sigma", "", width, "sparsity", "rel. L1", "RMSE", "cosine", "mass",
             "ms", "dense ms", "speed-up");
}

void print_row(const std::string& step,
               const std::string& sigma,
               const std::string& name,
               std::size_t width,
               const Quality& quality) {
  fmt::print(kColumns, step, sigma, name, width, fmt::format("{:.1f} %", 100 * quality.sparsity()),
             fmt::format("{:.5f}", quality.relative_l1()), fmt::format("{:.3g}", quality.rmse()),
             fmt::format("{:.5f}", quality.cosine()),
             fmt::format("{:.2f} %", 100 * quality.kept_mass()),
             fmt::format("{:.3f}", 1e3 * quality.seconds),
             fmt::format("{:.3f}", 1e3 * quality.dense_seconds),
             fmt::format("{:.2f}x", quality.speed_up()));
}

std::string name_of(const TraceCall& call) {
  return fmt::format("{} {}", call.layer, call.branch);
}

Quality sum(const std::vector<ReplayedCall>& calls) {
  Quality total;
  for (const ReplayedCall& one : calls) total += one.quality;
  return total;
}

// Calls of one step, whose noise levels may differ where transformers take turns.
std::map<std::int64_t, std::vector<ReplayedCall>> by_step(const std::vector<ReplayedCall>& calls) {
  std::map<std::int64_t, std::vector<ReplayedCall>> steps;
  for (const ReplayedCall& one : calls) steps[one.call->step].push_back(one);
  return steps;
}

void print(const std::vector<ReplayedCall>& calls, bool per_layer) {
  std::size_t width = 0;
  for (const ReplayedCall& one : calls) {
    if (per_layer) width = std::max(width, name_of(*one.call).size());
  }
  print_heading(width);
  for (const auto& [step, of_step] : by_step(calls)) {
    const double sigma = of_step.front().call->sigma;
    if (!per_layer) {
      print_row(std::to_string(step), fmt::format("{:.4f}", sigma), "", width, sum(of_step));
      continue;
    }
    for (const ReplayedCall& one : of_step) {
      print_row(std::to_string(step), fmt::format("{:.4f}", one.call->sigma), name_of(*one.call),
                width, one.quality);
    }
  }
  print_row("total", "", "", width, sum(calls));
}

// What was run, on what.
nlohmann::ordered_json describe_run(const ReplayOptions& options,
                                    const Context& context,
                                    const std::string& command_line) {
  nlohmann::ordered_json json = describe_machine();
  json["command"] = command_line;
  json["backend"] = name_of(resolve_backend(context));
  json["threads"] = context.executor->max_workers();
  json["trace"] = options.trace_path;
  return json;
}

nlohmann::ordered_json describe_replay(const ReplayOptions& options,
                                       const std::vector<ReplayedCall>& calls) {
  nlohmann::ordered_json json;
  json["method"] = options.method.json();
  json["total"] = to_json(sum(calls));
  for (const auto& [step, of_step] : by_step(calls)) {
    nlohmann::ordered_json entry = {{"step", step}};
    entry.update(to_json(sum(of_step)));
    json["steps"].push_back(entry);
  }
  for (const ReplayedCall& one : calls) {
    nlohmann::ordered_json entry = {{"step", one.call->step},
                                    {"branch", one.call->branch},
                                    {"layer", one.call->layer},
                                    {"sigma", one.call->sigma}};
    entry.update(to_json(one.quality));
    json["calls"].push_back(entry);
  }
  return json;
}

nlohmann::ordered_json run_method(const ReplayOptions& options,
                                  const Context& context,
                                  const Trace& trace) {
  const std::unique_ptr<Method> method = options.method.method(trace);
  const std::vector<ReplayedCall> calls = replay(context, trace, *method);
  print_trace(trace);
  fmt::print("{}\n{}, {} threads; errors and times against dense attention\n\n",
             options.method.description(), name_of(resolve_backend(context)),
             context.executor->max_workers());
  print(calls, options.per_layer);
  return describe_replay(options, calls);
}

nlohmann::ordered_json run_analysis(const ReplayOptions& options,
                                    const Context& context,
                                    const Trace& trace) {
  const std::vector<AnalysedCall> calls = analyse(context, trace);
  print_trace(trace);
  fmt::print("attention weights by size, of N keys; means over heads\n\n");
  print(calls, options.per_layer);
  return {{"calls", to_json(calls)}};
}

void run_replay(const ReplayOptions& options, const std::string& command_line) {
  std::unique_ptr<OutputFile> file;
  if (!options.json_path.empty()) file = std::make_unique<OutputFile>(options.json_path);
  std::unique_ptr<ThreadPool> pool;
  if (options.threads > 0) pool = std::make_unique<ThreadPool>(options.threads);
  const Context context{.executor = pool ? pool.get() : &default_executor()};

  const Trace trace = Trace::open(options.trace_path);
  const nlohmann::ordered_json results = options.analyses ? run_analysis(options, context, trace)
                                                          : run_method(options, context, trace);
  if (file) {
    nlohmann::ordered_json json = describe_run(options, context, command_line);
    json.update(results);
    file->append(json.dump(2) + "\n");
    file->commit();
  }
}

}  // namespace

void add_replay_command(CLI::App& app, Invocation& invocation) {
  CLI::App* command =
      app.add_subcommand("replay", "Try LiteAttention or a baseline on a recorded generation");
  const auto options = std::make_shared<ReplayOptions>(*command);
  const std::vector<CLI::Option*> of_methods = command->get_options();
  CLI::Option* analyse =
      command->add_flag("--analyse", options->analyses,
                        "How the weights of dense attention are spread, in place of a method");
  for (CLI::Option* option : of_methods) {
    if (option != command->get_help_ptr()) analyse->excludes(option);
  }
  command->add_option("trace", options->trace_path, "A file of saccade.record")->required();
  command->add_flag("--per-layer", options->per_layer, "A row for each layer and branch");
  command->add_option("--threads", options->threads, "Threads (default: as `saccade info` says)")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--json", options->json_path, "Write the results to this file too");
  command->callback([options, &invocation] { run_replay(*options, invocation.command_line); });
}

}  // namespace saccade::cli

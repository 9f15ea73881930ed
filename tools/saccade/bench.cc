#include "bench/attention_jobs.h"
#include "bench/measurement.h"
#include "bench/operands.h"
#include "bench/roofs.h"
#include "bench/sla_jobs.h"
#include "commands.h"
#include "machine.h"
#include "progress_line.h"

#include <saccade/info.h>
#include <saccade/output_file.h>

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace saccade::cli {
namespace {

struct BenchOptions {
  std::int64_t batch = 1;
  std::int64_t heads = 4;
  std::vector<std::int64_t> lengths = {4096};
  std::vector<int> head_dims = {64, 128};
  std::string dtype = "f32";
  std::vector<double> sparsities = {0, 50, 77, 90, 95};  // percent
  int block_q = 128;
  int block_k = 64;
  int threads = 0;  // 0 = the library's default
  int repeats = 5;
  std::string statistic = "median";
  std::string json_path;
};

// Of all threads, unless said otherwise.
struct Roofs {
  double gflops_of_one_thread = 0;
  double gflops = 0;
  double gbytes_per_second = 0;
};

DType dtype_named(std::string_view name) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    if (name == name_of(dtype)) return dtype;
  }
  return DType::f32;
}

Statistic statistic_named(std::string_view name) {
  return name == "fastest" ? Statistic::fastest : Statistic::median;
}

Roofs measure_roofs(Executor& executor) {
  return {.gflops_of_one_thread = fma_peak(executor, 1),
          .gflops = fma_peak(executor, executor.max_workers()),
          .gbytes_per_second = read_bandwidth(executor, executor.max_workers())};
}

void print_conditions(const BenchOptions& options, const Context& context, const Roofs& roofs) {
  const int threads = context.executor->max_workers();
  fmt::print("saccade {} (commit {}) on {}\n", version(), commit(), cpu_model());
  fmt::print("backend {}, {}, {} threads, batch {}, {} heads, tiles {} x {}, {} of {}\n",
             name_of(resolve_backend(context)), options.dtype, threads, options.batch,
             options.heads, options.block_q, options.block_k, options.statistic, options.repeats);
  fmt::print("f32 FMA peak: {:.1f} GFLOP/s on one thread, {:.1f} on {}; memory: {:.1f} GB/s\n\n",
             roofs.gflops_of_one_thread, roofs.gflops, threads, roofs.gbytes_per_second);
}

std::vector<Measurement> measure_shape(const BenchOptions& options,
                                       const Context& context,
                                       std::int64_t length,
                                       int head_dim) {
  ProgressLine progress;
  const std::string shape = fmt::format("length {}, head_dim {}", length, head_dim);
  progress.show(shape + ": drawing tensors");
  const Operands operands(dtype_named(options.dtype),
                          {.batch = options.batch,
                           .heads = options.heads,
                           .q_len = length,
                           .k_len = length,
                           .block_q = options.block_q,
                           .block_k = options.block_k},
                          head_dim);
  std::vector<double> shares;
  for (const double percent : options.sparsities) shares.push_back(percent / 100);
  std::vector<Job> jobs = attention_jobs(context, operands, shares);
  std::ranges::move(sla_jobs(context, operands), std::back_inserter(jobs));
  return measure(
      length, head_dim, std::move(jobs), options.repeats, statistic_named(options.statistic),
      [&] {
        Executor& executor = *context.executor;
        const int workers = executor.max_workers();
        return Rates{fma_rate(executor, workers), product_rate(executor, workers, head_dim)};
      },
      [&](int repeat) {
        progress.show(fmt::format("{}: repeat {} of {}", shape, repeat + 1, options.repeats));
      });
}

nlohmann::ordered_json describe_run(const BenchOptions& options,
                                    const Context& context,
                                    const Roofs& roofs,
                                    const std::string& command_line) {
  nlohmann::ordered_json json = describe_machine();
  json["command"] = command_line;
  json["backend"] = name_of(resolve_backend(context));
  json["threads"] = context.executor->max_workers();
  json["fma_peak_gflops"] = {{"one_thread", roofs.gflops_of_one_thread},
                             {"all_threads", roofs.gflops}};
  json["statistic"] = options.statistic;
  json["repeats"] = options.repeats;
  json["read_bandwidth_gbytes_per_second"] = roofs.gbytes_per_second;
  json["problem"] = {{"dtype", options.dtype},
                     {"batch", options.batch},
                     {"heads", options.heads},
                     {"block_q", options.block_q},
                     {"block_k", options.block_k}};
  json["results"] = nlohmann::ordered_json::array();
  return json;
}

void run_bench(const BenchOptions& options, const std::string& command_line) {
  std::unique_ptr<OutputFile> file;
  if (!options.json_path.empty()) file = std::make_unique<OutputFile>(options.json_path);
  std::unique_ptr<ThreadPool> pool;
  if (options.threads > 0) pool = std::make_unique<ThreadPool>(options.threads);
  const Context context{.executor = pool ? pool.get() : &default_executor()};

  const Roofs roofs = measure_roofs(*context.executor);
  nlohmann::ordered_json json = describe_run(options, context, roofs, command_line);
  print_conditions(options, context, roofs);
  print_heading();
  for (const std::int64_t length : options.lengths) {
    for (const int head_dim : options.head_dims) {
      for (const Measurement& measurement : measure_shape(options, context, length, head_dim)) {
        print(measurement, roofs.gbytes_per_second);
        json["results"].push_back(to_json(measurement, roofs.gbytes_per_second));
      }
    }
  }
  if (file) {
    file->append(json.dump(2) + "\n");
    file->commit();
  }
}

}  // namespace

void add_bench_command(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("bench", "Time attention, dense and sparse, and SLA");
  const auto options = std::make_shared<BenchOptions>();
  const auto count = CLI::Range(1, 1 << 20);
  const auto add = [&](const char* flags, auto& value, const char* help) {
    return command->add_option(flags, value, help)->capture_default_str();
  };
  add("--batch", options->batch, "Batch size")->check(count);
  add("--heads", options->heads, "Query and key heads")->check(count);
  add("--len", options->lengths, "Queries and keys of a head")->delimiter(',')->check(count);
  add("--dim", options->head_dims, "Head dimensions")->delimiter(',')->check(count);
  add("--dtype", options->dtype, "Data type")->check(CLI::IsMember({"f32", "f16", "bf16"}));
  add("--sparsity", options->sparsities, "Inactive tiles, percent; 0 = a full mask")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 99.9));
  add("--block-q", options->block_q, "Queries of a tile")->check(CLI::IsMember({64, 128}));
  add("--block-k", options->block_k, "Keys of a tile")->check(CLI::IsMember({64, 128}));
  add("--repeats", options->repeats, "Timings of each call")->check(count);
  add("--statistic", options->statistic, "Which timing counts")
      ->check(CLI::IsMember({"median", "fastest"}));
  command->add_option("--threads", options->threads, "Threads (default: as `saccade info` says)")
      ->check(count);
  command->add_option("--json", options->json_path, "Write the results to this file too");
  command->callback([options, &invocation] { run_bench(*options, invocation.command_line); });
}

}  // namespace saccade::cli

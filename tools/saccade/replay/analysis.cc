#include "replay/analysis.h"

#include "progress_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>

namespace saccade::cli {
namespace {

using Heads = std::vector<sla::WeightAnalysis>;

constexpr const char* kColumns = "{:>6}  {:<{}}{:>9}{:>10}{:>11}{:>13}{:>13}{:>9}{:>9}{:>9}\n";

double mean(const Heads& heads, auto value) {
  double sum = 0;
  for (const sla::WeightAnalysis& head : heads) sum += value(head);
  return sum / static_cast<double>(heads.size());
}

std::string percent(const Heads& heads, auto value) {
  return fmt::format("{:.1f} %", 100 * mean(heads, value));
}

void print_row(const std::string& step,
               const std::string& name,
               std::size_t width,
               const Heads& heads) {
  const auto rank = [&](auto value) { return fmt::format("{:.1f}", mean(heads, value)); };
  using Head = sla::WeightAnalysis;
  fmt::print(kColumns, step, name, width,  //
             percent(heads, [](const Head& head) { return head.large.share; }),
             percent(heads, [](const Head& head) { return head.large.mass; }),
             percent(heads, [](const Head& head) { return head.small.share; }),
             percent(heads, [](const Head& head) { return head.small.error; }),
             percent(heads, [](const Head& head) { return head.error_of_large_alone; }),
             rank([](const Head& head) { return head.rank; }),
             rank([](const Head& head) { return head.rank_of_large; }),
             rank([](const Head& head) { return head.rank_of_others; }));
}

void append(Heads& heads, const Heads& more) {
  heads.insert(heads.end(), more.begin(), more.end());
}

nlohmann::ordered_json to_json(const sla::WeightPart& part) {
  return {{"share", part.share}, {"mass", part.mass}, {"error", part.error}};
}

nlohmann::ordered_json to_json(const sla::WeightAnalysis& head) {
  return {{"large", to_json(head.large)},
          {"middling", to_json(head.middling)},
          {"small", to_json(head.small)},
          {"error_of_large_alone", head.error_of_large_alone},
          {"rank", head.rank},
          {"rank_of_large", head.rank_of_large},
          {"rank_of_others", head.rank_of_others}};
}

}  // namespace

std::vector<AnalysedCall> analyse(const Context& context, const Trace& trace) {
  ProgressLine progress;
  std::vector<AnalysedCall> calls;
  for (const TraceCall& call : trace.calls()) {
    progress.show(fmt::format("call {} of {}", calls.size() + 1, trace.calls().size()));
    calls.push_back({&call, sla::analyse_weights(context, {.q = call.q, .k = call.k, .v = call.v},
                                                 {.scale = trace.info().scale})});
  }
  return calls;
}

void print(const std::vector<AnalysedCall>& calls, bool per_layer) {
  std::map<std::int64_t, Heads> by_step;
  Heads all;
  std::size_t width = 0;
  const auto name_of = [](const TraceCall& call) { return call.layer + " " + call.branch; };
  for (const AnalysedCall& one : calls) {
    append(by_step[one.call->step], one.heads);
    append(all, one.heads);
    if (per_layer) width = std::max(width, name_of(*one.call).size());
  }
  fmt::print(kColumns, "step", "", width, "> 1/N", "its mass", "< 1/100N", "error, less",
             "error of", "rank", "rank", "rank");
  fmt::print(kColumns, "", "", width, "", "", "", "< 1/100N", "> 1/N alone", "of P", "> 1/N",
             "others");
  for (const auto& [step, heads] : by_step) {
    if (!per_layer) print_row(std::to_string(step), "", width, heads);
    for (const AnalysedCall& one : calls) {
      if (!per_layer || one.call->step != step) continue;
      print_row(std::to_string(step), name_of(*one.call), width, one.heads);
    }
  }
  print_row("mean", "", width, all);
}

nlohmann::ordered_json to_json(const std::vector<AnalysedCall>& calls) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const AnalysedCall& one : calls) {
    nlohmann::ordered_json heads = nlohmann::ordered_json::array();
    for (const sla::WeightAnalysis& head : one.heads) heads.push_back(to_json(head));
    json.push_back({{"step", one.call->step},
                    {"branch", one.call->branch},
                    {"layer", one.call->layer},
                    {"sigma", one.call->sigma},
                    {"heads", heads}});
  }
  return json;
}

}  // namespace saccade::cli

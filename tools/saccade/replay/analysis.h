#pragma once

#include <saccade/trace.h>
#include <saccade/weight_analysis.h>

#include <nlohmann/json.hpp>

#include <vector>

namespace saccade::cli {

// The heads of one call.
struct AnalysedCall {
  const TraceCall* call;
  std::vector<sla::WeightAnalysis> heads;
};

// How the weights of every call are spread, with a line of progress.
std::vector<AnalysedCall> analyse(const Context& context, const Trace& trace);

// A row for each step and a total, means over calls and heads; per layer and branch if asked for.
void print(const std::vector<AnalysedCall>& calls, bool per_layer);

// Every head of every call.
nlohmann::ordered_json to_json(const std::vector<AnalysedCall>& calls);

}  // namespace saccade::cli

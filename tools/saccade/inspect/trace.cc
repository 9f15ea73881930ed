#include "inspect/trace.h"

#include "inspect/text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <span>
#include <vector>

namespace saccade::cli {
namespace {

std::string shape_text(const TensorView& view) {
  return fmt::format("[{}]", fmt::join(std::span(view.shape).first(view.rank), ", "));
}

std::size_t bytes_of(const TensorView& view) {
  return static_cast<std::size_t>(view.element_count()) * size_of(view.dtype);
}

// "0-3,6,9": runs of three and more are written as ranges.
std::string steps_text(const std::vector<std::int64_t>& steps) {
  std::vector<std::string> parts;
  for (std::size_t first = 0, next = 0; first < steps.size(); first = next) {
    next = first + 1;
    while (next < steps.size() && steps[next] == steps[next - 1] + 1) ++next;
    if (next - first >= 3) {
      parts.push_back(fmt::format("{}-{}", steps[first], steps[next - 1]));
    } else {
      next = first + 1;
      parts.push_back(std::to_string(steps[first]));
    }
  }
  return fmt::format("{}", fmt::join(parts, ","));
}

std::vector<std::string> row_of(const Trace& trace,
                                const std::string& layer,
                                const std::string& branch) {
  std::vector<std::int64_t> steps;
  std::size_t bytes = 0;
  const TraceCall* any = nullptr;
  for (const TraceCall& call : trace.calls()) {
    if (call.layer != layer || call.branch != branch) continue;
    any = &call;
    steps.push_back(call.step);
    bytes += bytes_of(call.q) + bytes_of(call.k) + bytes_of(call.v);
  }
  if (any == nullptr) return {};
  return {printable(layer),     printable(branch),  std::string(name_of(any->q.dtype)),
          shape_text(any->q),   shape_text(any->k), steps_text(steps),
          std::to_string(bytes)};
}

std::string facts_of(const Trace& trace) {
  const TraceInfo& info = trace.info();
  std::string text = fmt::format(
      "trace of {} by saccade {}\n  {} calls of a generation of {} steps, sigma {:.4f} to {:.4f}\n",
      info.model.empty() ? "an unnamed model" : printable(info.model),
      printable(info.saccade_version), trace.calls().size(), info.num_steps,
      trace.calls().front().sigma, trace.calls().back().sigma);
  text += fmt::format("  token order: {}\n", printable(info.token_order));
  if (info.video) {
    text += fmt::format("  video: {} frames of {} x {} tokens, {} tokens before and {} after it\n",
                        info.video->frames, info.video->height, info.video->width,
                        info.video->prefix, info.video->suffix);
  }
  text += info.scale ? fmt::format("  scale: {}\n", *info.scale)
                     : std::string("  scale: 1 / sqrt(head_dim)\n");
  return text;
}

}  // namespace

std::string describe(const Trace& trace) {
  Table table({"layer", "branch", "dtype", "q", "k and v", "steps", "bytes"});
  for (const std::string& layer : trace.layers()) {
    for (const std::string& branch : trace.branches()) {
      const std::vector<std::string> row = row_of(trace, layer, branch);
      if (!row.empty()) table.add(row);
    }
  }
  return facts_of(trace) + "\n" + table.text();
}

}  // namespace saccade::cli

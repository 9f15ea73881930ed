#include <saccade/lite_schedule.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace saccade::lite {
namespace {

constexpr std::size_t kLineWidth = 100;

// Neighbours [begin, end) that are alike.
struct Run {
  std::size_t begin = 0;
  std::size_t end = 0;
};

template <typename Alike>
std::vector<Run> runs_of(std::size_t count, Alike&& alike) {
  std::vector<Run> runs;
  for (std::size_t i = 0; i < count; ++i) {
    if (i > 0 && alike(i - 1, i)) {
      runs.back().end = i + 1;
    } else {
      runs.push_back({i, i + 1});
    }
  }
  return runs;
}

// The text of both ends of a run, or of its only member.
template <typename Shown>
std::string ends_of(const Run& run, const char* between, Shown&& shown) {
  const std::string first = shown(run.begin);
  return run.end - run.begin == 1 ? first : first + between + shown(run.end - 1);
}

std::string shown(double value) {
  return fmt::format("{:.5g}", value);
}

std::string shown(const std::vector<double>& thresholds) {
  const auto [low, high] = std::ranges::minmax(thresholds);
  return low == high ? shown(low) : fmt::format("{} to {}", shown(low), shown(high));
}

std::string shown(const StepPlan& plan) {
  const std::string thresholds = shown(plan.thresholds);
  if (!plan.is_dense) return thresholds;
  return std::isinf(std::ranges::max(plan.thresholds)) ? "dense"
                                                       : fmt::format("dense ({})", thresholds);
}

using Cells = std::vector<std::string>;

std::string layers_of(const ScheduleTable& table, const Run& run) {
  const std::string ends =
      ends_of(run, " to ", [&](std::size_t layer) { return table.layers[layer]; });
  const std::size_t count = run.end - run.begin;
  return count > 2 ? fmt::format("{} ({})", ends, count) : ends;
}

// The first column: the names of the rows.
Cells headings_of(const ScheduleTable& table, const std::vector<Run>& rows) {
  Cells cells = {"step"};
  if (!table.sigmas.empty()) cells.push_back("sigma");
  for (const Run& row : rows) cells.push_back(layers_of(table, row));
  return cells;
}

Cells column_of(const ScheduleTable& table, const std::vector<Run>& rows, const Run& steps) {
  Cells cells = {ends_of(steps, "-", [](std::size_t step) { return fmt::format("{}", step); })};
  if (!table.sigmas.empty()) {
    cells.push_back(
        ends_of(steps, " to ", [&](std::size_t step) { return shown(table.sigmas[step]); }));
  }
  for (const Run& row : rows) cells.push_back(shown(table.plans[row.begin][steps.begin]));
  return cells;
}

std::size_t width_of(const Cells& cells) {
  std::size_t width = 0;
  for (const std::string& cell : cells) width = std::max(width, cell.size());
  return width;
}

// Adds a column to the right of the lines.
void append(Cells& lines, const Cells& cells) {
  const std::size_t width = width_of(lines);
  for (std::size_t i = 0; i < lines.size(); ++i) {
    lines[i].resize(width, ' ');
    lines[i] += "  " + cells[i];
  }
}

std::string joined(const Cells& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + '\n';
  return text;
}

}  // namespace

std::string to_text(const ScheduleTable& table) {
  const auto& plans = table.plans;
  const std::vector<Run> rows = runs_of(
      plans.size(), [&](std::size_t i, std::size_t next) { return plans[i] == plans[next]; });
  const std::vector<Run> columns =
      runs_of(plans.empty() ? 0 : plans.front().size(), [&](std::size_t step, std::size_t next) {
        return std::ranges::all_of(plans,
                                   [&](const auto& layer) { return layer[step] == layer[next]; });
      });
  const Cells headings = headings_of(table, rows);
  std::string text;
  Cells lines = headings;
  for (const Run& steps : columns) {
    const Cells cells = column_of(table, rows, steps);
    const bool is_first = lines == headings;
    if (!is_first && width_of(lines) + 2 + width_of(cells) > kLineWidth) {
      text += joined(lines) + '\n';
      lines = headings;
    }
    append(lines, cells);
  }
  return text + joined(lines) +
         "Thresholds in log2 units; dense (t): every tile is computed, and marked by threshold "
         "t.\n";
}

}  // namespace saccade::lite

#include "arguments.h"

#include <saccade/error.h>

#include <fmt/format.h>

namespace saccade::python {
namespace {

template <typename Enum>
Enum enum_of(std::int64_t number, Enum last, const char* name) {
  if (number < 0 || number > static_cast<std::int64_t>(last)) {
    throw InvalidArgument(fmt::format("{} has number {}, but must have one from 0 to {}", name,
                                      number, static_cast<std::int64_t>(last)));
  }
  return static_cast<Enum>(number);
}

}  // namespace

TileGrid grid_from(const std::vector<std::int64_t>& extents) {
  if (extents.size() != 6) {
    throw InvalidArgument(fmt::format("a grid has 6 extents, got {}", extents.size()));
  }
  return {extents[0],
          extents[1],
          extents[2],
          extents[3],
          static_cast<int>(extents[4]),
          static_cast<int>(extents[5])};
}

std::vector<TokenRange> ranges_from(const std::vector<std::int64_t>& bounds,
                                    std::string_view name) {
  if (bounds.size() % 2 != 0) {
    throw InvalidArgument(fmt::format("{} has {} bounds, but needs begin and end of each range",
                                      name, bounds.size()));
  }
  std::vector<TokenRange> ranges;
  for (std::size_t i = 0; i < bounds.size(); i += 2) ranges.push_back({bounds[i], bounds[i + 1]});
  return ranges;
}

TileShare share_from(double ratio, std::int64_t count) {
  return count < 0 ? TileShare::of_ratio(ratio) : TileShare::of_count(count);
}

lite::Rule rule_from(std::int64_t measure,
                     std::int64_t reference,
                     std::int64_t order,
                     std::optional<double> mass_budget,
                     std::int64_t reprobe_period,
                     bool skips_values) {
  return {.measure = enum_of(measure, Measure::mean_mass, "measure"),
          .reference = enum_of(reference, lite::Reference::lse, "reference"),
          .order = enum_of(order, lite::Order::strongest, "order"),
          .mass_budget = mass_budget,
          .reprobe_period = reprobe_period,
          .skips_values = skips_values};
}

}  // namespace saccade::python

#include "arguments.h"

#include <saccade/error.h>

#include <fmt/format.h>

namespace saccade::python {

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

}  // namespace saccade::python

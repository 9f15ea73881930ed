#pragma once

#include <saccade/lite.h>
#include <saccade/routing.h>
#include <saccade/tile_grid.h>
#include <saccade/tile_mask.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

// Arguments that operators take as numbers and lists of numbers. All throw InvalidArgument; `name`
// is for the message.

namespace saccade::python {

// batch, heads, q_len, k_len, block_q, block_k.
TileGrid grid_from(const std::vector<std::int64_t>& extents);

// begin, end, begin, end, ...
std::vector<TokenRange> ranges_from(const std::vector<std::int64_t>& bounds, std::string_view name);

// A count where that is not negative, a ratio elsewhere.
TileShare share_from(double ratio, std::int64_t count);

// A measure, a reference and an order by the numbers of their enumerators: names would be strings,
// each of which torch's stable interface leaks.
lite::Rule rule_from(std::int64_t measure,
                     std::int64_t reference,
                     std::int64_t order,
                     std::optional<double> mass_budget,
                     std::int64_t reprobe_period,
                     bool skips_values);

}  // namespace saccade::python

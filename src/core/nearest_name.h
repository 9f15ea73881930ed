#pragma once

#include <span>
#include <string>
#include <string_view>

namespace saccade {

// The one of `names` that takes the fewest insertions, deletions and exchanges of characters to
// become `given`; the first of several. `names` is not empty.
std::string_view nearest_name(std::string_view given, std::span<const std::string> names);

}  // namespace saccade

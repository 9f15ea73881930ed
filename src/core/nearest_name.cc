#include "core/nearest_name.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

namespace saccade {
namespace {

// Levenshtein's distance.
std::size_t edits_between(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);  // distances of the first i of a to prefixes of b
  std::iota(row.begin(), row.end(), 0);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t exchanged = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, exchanged});
    }
  }
  return row.back();
}

}  // namespace

std::string_view nearest_name(std::string_view given, std::span<const std::string> names) {
  constexpr std::size_t kLongest = 256;  // keeps hostile input from costing the square of its size
  const std::string_view compared = given.substr(0, kLongest);
  return *std::ranges::min_element(names, {}, [&](const std::string& name) {
    return edits_between(compared, std::string_view(name).substr(0, kLongest));
  });
}

}  // namespace saccade

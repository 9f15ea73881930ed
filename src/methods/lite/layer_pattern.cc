#include "methods/lite/layer_pattern.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <cstddef>

namespace saccade::lite {
namespace {

// Characters of the bracket expression that begins at pattern[0] == '['; 0 = it has no end. A `]`
// that comes first is one of the characters it matches.
std::size_t bracket_size(std::string_view pattern) {
  const bool is_negated = pattern.size() > 1 && pattern[1] == '!';
  const std::size_t end = pattern.find(']', is_negated ? 3 : 2);
  return end == std::string_view::npos ? 0 : end + 1;
}

// Whether `c` is one of the characters between the brackets.
bool bracket_matches(std::string_view bracket, char c) {
  const bool is_negated = bracket[1] == '!';
  const std::string_view set = bracket.substr(is_negated ? 2 : 1, bracket.size() - 2 - is_negated);
  for (std::size_t i = 0; i < set.size(); ++i) {
    const bool is_range = i + 2 < set.size() && set[i + 1] == '-';
    const char last = is_range ? set[i + 2] : set[i];
    if (set[i] <= c && c <= last) return !is_negated;
    if (is_range) i += 2;
  }
  return is_negated;
}

// Characters of the part at the start of the pattern, which stands for one character of a path.
std::size_t part_size(std::string_view pattern) {
  return pattern.front() == '[' ? bracket_size(pattern) : 1;
}

bool part_matches(std::string_view part, char c) {
  if (part.front() == '[') return bracket_matches(part, c);
  return part.front() == '?' || part.front() == c;
}

}  // namespace

bool matches(std::string_view pattern, std::string_view path) {
  // It is enough to let the last `*` so far grow: what the earlier ones took can stay.
  std::size_t at = 0, after_star = std::string_view::npos, star_end = 0;
  for (std::size_t i = 0; i < path.size();) {
    if (at < pattern.size() && pattern[at] == '*') {
      after_star = ++at;
      star_end = i;
      continue;
    }
    const std::string_view rest = pattern.substr(at);
    const std::size_t size = rest.empty() ? 0 : part_size(rest);
    if (size > 0 && part_matches(rest.substr(0, size), path[i])) {
      at += size;
      ++i;
    } else if (after_star != std::string_view::npos) {
      at = after_star;
      i = ++star_end;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', at) == std::string_view::npos;
}

void require_pattern(std::string_view pattern, std::string_view field) {
  if (pattern.empty()) {
    throw InvalidArgument(
        fmt::format("{} is empty, but must be a pattern of layer paths; * is all of them", field));
  }
  for (std::size_t at = 0; at < pattern.size();) {
    const std::size_t size = part_size(pattern.substr(at));
    if (size == 0) {
      throw InvalidArgument(fmt::format(
          "{} is '{}', whose [ has no ]; [[] stands for the character [", field, pattern));
    }
    at += size;
  }
}

}  // namespace saccade::lite

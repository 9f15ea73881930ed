#pragma once

#include <string_view>

namespace saccade::lite {

// Whether a pattern of lite_schedule.h matches the whole of `path`. The pattern is legal.
bool matches(std::string_view pattern, std::string_view path);

// Throws InvalidArgument, naming the field, for a pattern that is empty or has a `[` without a `]`.
void require_pattern(std::string_view pattern, std::string_view field);

}  // namespace saccade::lite

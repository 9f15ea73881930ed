#pragma once

#include "core/element.h"
#include "support/problem.h"

#include <cstdint>

namespace saccade::test {

// S of one head, token by token and without tiles: -inf where query and key do not meet.
Matrix token_logits(const Problem& problem, std::int64_t sample, std::int64_t head);

}  // namespace saccade::test

#pragma once

#include "core/attention_problem.h"

#include <cstddef>

namespace saccade::cpu {

// What the products of a call read: 32-bit words. A word is one float, or a pair of bf16 that are
// neighbours along the depth of the product.
enum class Words { floats, bf16_pairs };

constexpr std::ptrdiff_t elements_per_word(Words words) {
  return words == Words::floats ? 1 : 2;
}

// Pairs for bf16 where the machine multiplies them as they are, floats elsewhere.
Words words_of(const AttentionProblem& problem);

}  // namespace saccade::cpu

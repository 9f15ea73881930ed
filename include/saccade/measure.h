#pragma once

#include <string_view>

namespace saccade {

// What the score of a tile measures, in the softmax of its rows. AttentionForwardOutputs::scores
// defines each.
enum class Measure {
  largest_weight,  // of its largest logit, in any row: LiteAttention's
  largest_mass,    // of all its keys, in the row where they weigh most
  mean_mass,       // of all its keys, on average over the rows
};

// Throws InvalidArgument for a value that is none of them.
std::string_view name_of(Measure measure);

}  // namespace saccade

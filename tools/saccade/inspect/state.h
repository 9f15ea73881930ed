#pragma once

#include <saccade/safetensors.h>

#include <string>

namespace saccade::cli {

// Whether the file says that it holds states of LiteAttention, as saccade.save_state writes them.
bool is_state(const SafetensorsFile& file);

// One line for each layer and branch; where branches share a mask, all show what it drops. Throws
// InvalidArgument for a file whose states are not of this form.
std::string describe_state(const SafetensorsFile& file);

}  // namespace saccade::cli

#pragma once

#include <saccade/trace.h>

#include <string>

namespace saccade::cli {

// What a trace is of, and one line for each layer and branch.
std::string describe(const Trace& trace);

}  // namespace saccade::cli

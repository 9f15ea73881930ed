#pragma once

#include <saccade/trace.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

// The JSON of a trace.

namespace saccade {

struct TraceHeader {
  TraceInfo info;
  std::vector<TraceCall> calls;  // without tensors
};

// Reads the JSON from any bytes. Throws InvalidArgument for what is no JSON, for another version,
// and for fields that are missing, unknown, repeated or of a wrong type.
TraceHeader parse_trace_header(std::string_view json);

// Throws InvalidArgument for texts that are not UTF-8.
std::string to_json(const TraceInfo& info, std::span<const TraceCall> calls);

// Of the tensor `part` ("q", "k" or "v") of a call.
std::string tensor_name(const TraceCall& call, std::string_view part);

}  // namespace saccade

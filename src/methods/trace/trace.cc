#include "core/files/safetensors_header.h"
#include "methods/trace/trace_header.h"

#include <saccade/error.h>
#include <saccade/trace.h>

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

namespace saccade {
namespace {

// visit(part, tensor) for each tensor of a call, which may be const.
template <typename Call, typename Visit>
void for_each_tensor(Call& call, Visit visit) {
  visit("q", call.q);
  visit("k", call.k);
  visit("v", call.v);
}

const std::string& json_of(const SafetensorsFile& file) {
  const auto found = file.metadata().find(kTraceKey);
  if (found != file.metadata().end()) return found->second;
  throw InvalidArgument(fmt::format(
      "this is no trace: the metadata has no entry {}; saccade.record writes one", kTraceKey));
}

TensorView find_tensor(const SafetensorsFile& file, const std::string& name) {
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end()) {
    throw InvalidArgument(fmt::format("the trace has no tensor {}", quote(name)));
  }
  const StoredTensor& stored = found->second;
  if (stored.shape.size() != 4 || !computed_dtype(stored.dtype)) {
    throw InvalidArgument(
        fmt::format("tensor {} is {} with {} dimensions, but must be F16, BF16 or F32 with 4",
                    quote(name), name_of(stored.dtype), stored.shape.size()));
  }
  return file.tensor(name);
}

void require_no_others(const SafetensorsFile& file, const std::set<std::string>& names) {
  for (const auto& [name, tensor] : file.tensors()) {
    if (names.contains(name)) continue;
    throw InvalidArgument(fmt::format("tensor {} belongs to no call of the trace", quote(name)));
  }
}

std::vector<std::string> distinct(std::span<const TraceCall> calls, std::string TraceCall::*name) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const TraceCall& call : calls) {
    if (seen.insert(call.*name).second) names.push_back(call.*name);
  }
  return names;
}

}  // namespace

Trace Trace::open(const std::filesystem::path& path) {
  SafetensorsFile file = SafetensorsFile::open(path);
  const auto named = [&](const Error& error) {
    return fmt::format("{}: {}", path.string(), error.what());
  };
  try {
    return read(std::move(file));
  } catch (const InvalidArgument& error) {
    throw InvalidArgument(named(error));
  } catch (const Unsupported& error) {
    throw Unsupported(named(error));
  }
}

Trace Trace::read(SafetensorsFile file) {
  TraceHeader header = parse_trace_header(json_of(file));
  std::set<std::string> names;
  for (TraceCall& call : header.calls) {
    for_each_tensor(call, [&](const char* part, TensorView& view) {
      const std::string name = tensor_name(call, part);
      view = find_tensor(file, name);
      names.insert(name);
    });
  }
  require_no_others(file, names);
  validate(header.info, header.calls);
  return Trace({std::move(file), std::move(header.info), std::move(header.calls)});
}

std::vector<std::string> Trace::layers() const {
  return distinct(calls(), &TraceCall::layer);
}

std::vector<std::string> Trace::branches() const {
  return distinct(calls(), &TraceCall::branch);
}

bool is_trace(const SafetensorsFile& file) {
  return file.metadata().contains(kTraceKey);
}

void write_trace(const std::filesystem::path& path,
                 const TraceInfo& info,
                 std::span<const TraceCall> calls) {
  validate(info, calls);
  TensorSources tensors;
  for (const TraceCall& call : calls) {
    for_each_tensor(call, [&](const char* part, const TensorView& view) {
      tensors.emplace(tensor_name(call, part), view);
    });
  }
  write_safetensors(path, tensors, {{kTraceKey, to_json(info, calls)}});
}

}  // namespace saccade

#include "core/files/safetensors_header.h"
#include "methods/trace/trace_header.h"

#include <saccade/error.h>
#include <saccade/trace.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// Whatever a file's JSON and tensors are, reading them as a trace returns a valid one, whose
// tensors lie within the file and whose JSON can be written and read again, or throws
// InvalidArgument. (What is no safetensors file never comes so far: that is for
// safetensors_fuzzer.cc.)
//
// An input is one byte for each tensor of two calls, which 0 leaves as it should be, then the JSON.

namespace saccade {
namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

// Reads every byte: AddressSanitizer sees whether it is one of the input's.
unsigned sum(const TensorView& view) {
  const auto* bytes = static_cast<const unsigned char*>(view.data);
  const std::size_t count = static_cast<std::size_t>(view.element_count()) * size_of(view.dtype);
  unsigned total = 0;
  for (std::size_t i = 0; i < count; ++i) total += bytes[i];
  return total;
}

constexpr std::size_t kTensors = 6;
constexpr const char* kNames[kTensors] = {"0/c/a/q", "0/c/a/k", "0/c/a/v",
                                          "3/c/a/q", "3/c/a/k", "3/c/a/v"};

// A small F16 tensor; what is not 0 changes its dtype (3 bits), one of its extents, or its rank.
TensorEntry entry_of(const char* name, std::uint8_t change, std::uint64_t begin) {
  constexpr StoredDType kDTypes[] = {StoredDType::f16, StoredDType::bf16, StoredDType::f32,
                                     StoredDType::f64, StoredDType::i32,  StoredDType::u8,
                                     StoredDType::i64, StoredDType::f4};
  TensorEntry entry{name, kDTypes[change & 7], {1, 2, 4, 2}, begin};
  if (change >> 3 != 0) entry.shape[change >> 3 & 3] = change >> 5;
  if (change == 255) entry.shape.pop_back();
  entry.end = begin + byte_count(entry.dtype, entry.shape).value();
  return entry;
}

std::vector<std::byte> encode(std::span<const std::uint8_t> changes, std::string_view json) {
  SafetensorsHeader header{{{kTraceKey, std::string(json)}}, {}};
  std::uint64_t end = 0;
  for (std::size_t i = 0; i < kTensors; ++i) {
    header.tensors.push_back(entry_of(kNames[i], changes[i], end));
    end = header.tensors.back().end;
  }
  const std::string prefix = encode_header(header);
  std::vector<std::byte> bytes(prefix.size() + end);
  std::memcpy(bytes.data(), prefix.data(), prefix.size());
  return bytes;
}

std::optional<Trace> read(std::span<const std::byte> bytes) {
  try {
    return Trace::read(SafetensorsFile::parse(bytes));
  } catch (const InvalidArgument&) {
  } catch (const Unsupported&) {  // a tensor that is not aligned
  }
  return std::nullopt;
}

void use(const Trace& trace) {
  volatile unsigned total = 0;
  for (const TraceCall& call : trace.calls()) {
    total = total + sum(call.q) + sum(call.k) + sum(call.v);
  }
  validate(trace.info(), trace.calls());
  require(!trace.layers().empty() && !trace.branches().empty());
  const std::string json = to_json(trace.info(), trace.calls());
  const TraceHeader again = parse_trace_header(json);
  require(again.info == trace.info());
  require(again.calls.size() == trace.calls().size());
  require(to_json(again.info, again.calls) == json);
}

}  // namespace
}  // namespace saccade

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace saccade;
  if (size < kTensors) return 0;
  const std::span<const std::uint8_t> input(data, size);
  const std::string_view json(reinterpret_cast<const char*>(data) + kTensors, size - kTensors);
  std::vector<std::byte> bytes;
  try {
    bytes = encode(input.first(kTensors), json);
  } catch (const InvalidArgument&) {  // what is not UTF-8 cannot stand in a header
    return 0;
  }
  if (const auto trace = read(bytes)) use(*trace);
  return 0;
}

#pragma once

#include <saccade/baselines.h>
#include <saccade/safetensors.h>
#include <saccade/tensor_view.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

// Traces: what the self-attention of a model was called with during one generation, for trying
// rules without the model. A safetensors file with the tensors
//   STEP/BRANCH/LAYER/q, .../k and .../v: [batch, heads, length, head_dim], F16, BF16 or F32
// of each call, and one entry of metadata, kTraceKey, a JSON object with the fields of TraceInfo,
// `version`, and `calls`, a list of {"step", "branch", "layer", "sigma"}. docs/traces.md shows one.

namespace saccade {

inline constexpr const char* kTraceKey = "saccade.trace";
inline constexpr std::int64_t kTraceVersion = 1;

// What all calls of a trace have in common.
struct TraceInfo {
  std::string model{};                 // as in the fingerprint of a schedule; may be empty
  std::string saccade_version{};       // that recorded it
  std::int64_t num_steps = 0;          // of the generation, recorded or not: at least 1
  std::string token_order = "frames";  // as given to saccade.enable, a box as "4x8x8"
  std::optional<double> scale{};       // of the logits; absent = 1 / sqrt(head_dim)
  std::optional<baselines::VideoLayout> video{};  // of the tokens; absent = unknown

  friend bool operator==(const TraceInfo&, const TraceInfo&) = default;
};

// One attention call. Names hold no '/'.
struct TraceCall {
  std::int64_t step = 0;  // from 0
  std::string branch{};
  std::string layer{};  // path of the module
  double sigma = 0;     // noise level, in [0, 1]
  TensorView q{}, k{}, v{};
};

// Throws InvalidArgument unless all of this holds: there is a call, and none twice; steps lie in
// [0, num_steps) and do not fall from call to call; sigmas lie in [0, 1]; names are neither empty
// nor hold a '/'; q, k and v of a call have one dtype (f16, bf16 or f32), four extents of at least
// 1, one batch and head_dim, k and v one shape, and heads of q a multiple of those of k; the calls
// of one layer and branch have equal shapes and dtypes; scale is finite and not 0; and the video
// has as many tokens as every q and k.
void validate(const TraceInfo& info, std::span<const TraceCall> calls);

// A trace that was read. Copies share the file; views are valid while one of them lives.
class Trace {
 public:
  // Maps the file: only what is touched is read. Throws like SafetensorsFile::open, and, naming the
  // file, like read.
  static Trace open(const std::filesystem::path& path);

  // Throws InvalidArgument for a file without trace, of another version, or whose JSON has fields
  // that are missing, unknown, repeated or of a wrong type; unless it holds the tensors of its
  // calls and no others; and for what validate refuses. Unsupported for tensors that are not
  // aligned.
  static Trace read(SafetensorsFile file);

  const TraceInfo& info() const { return contents_->info; }

  // By step, then in the order in which the model made them.
  std::span<const TraceCall> calls() const { return contents_->calls; }

  // Names, in the order of their first calls.
  std::vector<std::string> layers() const;
  std::vector<std::string> branches() const;

 private:
  struct Contents {
    SafetensorsFile file;
    TraceInfo info;
    std::vector<TraceCall> calls;
  };
  explicit Trace(Contents contents)
      : contents_(std::make_shared<const Contents>(std::move(contents))) {}

  std::shared_ptr<const Contents> contents_;
};

// Whether the file says that it is a trace, readable or not.
bool is_trace(const SafetensorsFile& file);

// Writes a trace, whole or not at all. Throws like validate and write_safetensors.
void write_trace(const std::filesystem::path& path,
                 const TraceInfo& info,
                 std::span<const TraceCall> calls);

}  // namespace saccade

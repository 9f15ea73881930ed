#include "core/files/safetensors_header.h"

#include <saccade/error.h>
#include <saccade/trace.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <map>
#include <set>
#include <tuple>
#include <utility>

namespace saccade {
namespace {

std::string shape_text(const TensorView& view) {
  return fmt::format("{} [{}]", name_of(view.dtype),
                     fmt::join(view.shape.begin(), view.shape.begin() + view.rank, ", "));
}

std::string described(const TraceCall& call) {
  return fmt::format("step {}, branch {}, layer {}", call.step, quote(call.branch),
                     quote(call.layer));
}

[[noreturn]] void refuse(const TraceCall& call, const std::string& reason) {
  throw InvalidArgument(fmt::format("{}: {}", described(call), reason));
}

void require_name(const TraceCall& call, const char* what, const std::string& name) {
  if (name.empty()) refuse(call, fmt::format("the name of the {} is empty", what));
  if (name.find('/') != std::string::npos) {
    refuse(call, fmt::format("the name of the {} holds a '/'", what));
  }
}

void require_tensor(const TraceCall& call, const char* name, const TensorView& view) {
  const bool is_float =
      view.dtype == DType::f16 || view.dtype == DType::bf16 || view.dtype == DType::f32;
  bool has_elements = view.data != nullptr && view.rank == 4;
  for (int i = 0; has_elements && i < 4; ++i) has_elements = view.shape[i] >= 1;
  if (is_float && has_elements) return;
  refuse(call, fmt::format("{} is {}, but must be f16, bf16 or f32 [batch, heads, length, "
                           "head_dim], each at least 1",
                           name, view.data == nullptr ? "missing" : shape_text(view)));
}

void require_tensors(const TraceCall& call) {
  require_tensor(call, "q", call.q);
  require_tensor(call, "k", call.k);
  require_tensor(call, "v", call.v);
  const auto& q = call.q.shape;
  const auto& k = call.k.shape;
  const bool fits = call.q.dtype == call.k.dtype && call.k.dtype == call.v.dtype &&
                    k == call.v.shape && q[0] == k[0] && q[3] == k[3] && q[1] % k[1] == 0;
  if (fits) return;
  refuse(call,
         fmt::format("q {}, k {} and v {} do not fit together: they need one dtype, batch and "
                     "head_dim, k and v one shape, and q a multiple of the heads of k",
                     shape_text(call.q), shape_text(call.k), shape_text(call.v)));
}

void require_call(const TraceInfo& info, const TraceCall& call) {
  require_name(call, "branch", call.branch);
  require_name(call, "layer", call.layer);
  if (call.step < 0 || call.step >= info.num_steps) {
    refuse(call, fmt::format("steps must be 0 to num_steps - 1 = {}", info.num_steps - 1));
  }
  if (!(call.sigma >= 0 && call.sigma <= 1)) {
    refuse(call, fmt::format("sigma is {}, but must be in [0, 1]", call.sigma));
  }
  require_tensors(call);
}

// Absent where the layout is not one, or has more tokens than 63 bits can count.
std::optional<std::int64_t> tokens_of(const baselines::VideoLayout& video) {
  std::int64_t tokens = 0;
  if (video.frames < 1 || video.height < 1 || video.width < 1 || video.prefix < 0 ||
      video.suffix < 0 || __builtin_mul_overflow(video.height, video.width, &tokens) ||
      __builtin_mul_overflow(tokens, video.frames, &tokens) ||
      __builtin_add_overflow(tokens, video.prefix, &tokens) ||
      __builtin_add_overflow(tokens, video.suffix, &tokens)) {
    return std::nullopt;
  }
  return tokens;
}

void require_video(const TraceInfo& info, std::span<const TraceCall> calls) {
  if (!info.video) return;
  const baselines::VideoLayout& video = *info.video;
  const std::string text =
      fmt::format("video of {} x {} x {} tokens, {} before and {} after it", video.frames,
                  video.height, video.width, video.prefix, video.suffix);
  const std::optional<std::int64_t> tokens = tokens_of(video);
  if (!tokens) {
    throw InvalidArgument(fmt::format(
        "{}: extents must be at least 1, text at least 0, all of it less than 2^63", text));
  }
  for (const TraceCall& call : calls) {
    if (call.q.shape[2] == *tokens && call.k.shape[2] == *tokens) continue;
    refuse(call, fmt::format("q has {} tokens and k {}, but the {} has {}", call.q.shape[2],
                             call.k.shape[2], text, *tokens));
  }
}

// What a state depends on.
auto form_of(const TraceCall& call) {
  return std::tuple(call.q.dtype, call.q.shape, call.k.shape);
}

void require_equal_forms(std::span<const TraceCall> calls) {
  std::map<std::pair<std::string, std::string>, const TraceCall*> firsts;
  for (const TraceCall& call : calls) {
    const TraceCall& first = *firsts.try_emplace({call.layer, call.branch}, &call).first->second;
    if (form_of(call) == form_of(first)) continue;
    refuse(call,
           fmt::format("q {} and k {} differ from q {} and k {} of step {}", shape_text(call.q),
                       shape_text(call.k), shape_text(first.q), shape_text(first.k), first.step));
  }
}

void require_order(std::span<const TraceCall> calls) {
  std::set<std::tuple<std::int64_t, std::string, std::string>> seen;
  std::int64_t step = 0;
  for (const TraceCall& call : calls) {
    if (call.step < step) refuse(call, fmt::format("it comes after step {}", step));
    step = call.step;
    if (!seen.emplace(call.step, call.branch, call.layer).second) refuse(call, "it is there twice");
  }
}

}  // namespace

void validate(const TraceInfo& info, std::span<const TraceCall> calls) {
  if (info.num_steps < 1) {
    throw InvalidArgument(fmt::format("num_steps is {}, but must be at least 1", info.num_steps));
  }
  if (info.scale && (!std::isfinite(*info.scale) || *info.scale == 0)) {
    throw InvalidArgument(fmt::format("scale is {}, but must be finite and not 0", *info.scale));
  }
  if (calls.empty()) throw InvalidArgument("the trace has no calls, but needs one at least");
  for (const TraceCall& call : calls) require_call(info, call);
  require_order(calls);
  require_equal_forms(calls);
  require_video(info, calls);
}

}  // namespace saccade

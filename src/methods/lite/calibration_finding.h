#pragma once

#include <saccade/calibrate.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace saccade::lite {

// What attention over a mask finds, head by head: what a CalibrationStateView becomes.
struct Finding {
  explicit Finding(const CalibrationStateView& state);
  Finding(const Finding&) = delete;
  Finding& operator=(const Finding&) = delete;

  void take_head(const Finding& other, std::int64_t head);
  void write_to(const CalibrationStateView& state) const;

  TileMask mask;
  std::vector<float> score_values;
  TensorView scores;
  std::vector<std::byte> lse_bytes;
  TensorView lse{};  // absent with the running reference
};

// Of one head, in all samples.
void clear_head(const TileMaskView& mask, std::int64_t head);

}  // namespace saccade::lite

#include "methods/lite/calibration_finding.h"

#include <algorithm>
#include <cstring>

namespace saccade::lite {
namespace {

std::size_t bytes_of(const TensorView& tensor) {
  return tensor.element_count() * size_of(tensor.dtype);
}

// Of two densely packed tensors [batch, heads, ...].
void copy_head(const TensorView& from, const TensorView& to, std::int64_t head) {
  const std::size_t bytes = bytes_of(from) / (from.shape[0] * from.shape[1]);
  for (std::int64_t batch = 0; batch < from.shape[0]; ++batch) {
    const std::size_t offset = (batch * from.shape[1] + head) * bytes;
    std::memcpy(static_cast<std::byte*>(to.data) + offset,
                static_cast<const std::byte*>(from.data) + offset, bytes);
  }
}

// visit(offset, count): where the words of a head lie, sample by sample.
template <typename Visit>
void for_each_words(const TileGrid& grid, std::int64_t head, Visit visit) {
  const std::int64_t count = grid.q_tiles() * grid.words_per_row();
  for (std::int64_t batch = 0; batch < grid.batch; ++batch) {
    visit((batch * grid.heads + head) * count, count);
  }
}

}  // namespace

Finding::Finding(const CalibrationStateView& state)
    : mask(state.mask.grid), score_values(mask.grid().tiles()), scores(state.scores) {
  scores.data = score_values.data();
  if (!state.ref) return;
  lse_bytes.resize(bytes_of(state.ref));
  lse = state.ref;
  lse.data = lse_bytes.data();
}

void Finding::take_head(const Finding& other, std::int64_t head) {
  for_each_words(mask.grid(), head, [&](std::int64_t offset, std::int64_t count) {
    std::copy_n(other.mask.view().words + offset, count, mask.view().words + offset);
  });
  copy_head(other.scores, scores, head);
  if (lse) copy_head(other.lse, lse, head);
}

void Finding::write_to(const CalibrationStateView& state) const {
  std::copy_n(mask.view().words, mask.grid().words(), state.mask.words);
  std::memcpy(state.scores.data, scores.data, bytes_of(scores));
  if (lse) std::memcpy(state.ref.data, lse.data, bytes_of(lse));
}

void clear_head(const TileMaskView& mask, std::int64_t head) {
  for_each_words(mask.grid, head, [&](std::int64_t offset, std::int64_t count) {
    std::fill_n(mask.words + offset, count, 0);
  });
}

}  // namespace saccade::lite

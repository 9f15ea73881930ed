#include "core/mask_row.h"
#include "core/parallel.h"
#include "cpu/cpu_backend.h"

namespace saccade::cpu {
namespace {

// Rows of tiles per unit of work: a few microseconds.
constexpr std::int64_t kRowsPerUnit = 256;

template <typename Visit>
void for_each_row(const Execution& execution, std::int64_t rows, Visit visit) {
  const std::int64_t units = (rows + kRowsPerUnit - 1) / kRowsPerUnit;
  for_each_unit(execution, units, [&](int, std::int64_t unit) {
    const std::int64_t end = std::min(rows, (unit + 1) * kRowsPerUnit);
    for (std::int64_t row = unit * kRowsPerUnit; row < end; ++row) visit(row);
  });
}

}  // namespace

void computed_tiles(const Execution& execution,
                    const TileMaskView& mask,
                    const ComputedTilesOptions& options,
                    const TileMaskView& computed) {
  for_each_row(execution, mask.grid.rows(),
               [&](std::int64_t row) { compute_row(mask, options, row, computed); });
}

void update_mask(const Execution& execution,
                 const UpdateMaskInputs& inputs,
                 const UpdateMaskOptions& options,
                 const UpdateMaskOutputs& outputs) {
  for_each_row(execution, inputs.mask.grid.rows(),
               [&](std::int64_t row) { RowUpdate(inputs, options, outputs, row).run(); });
}

}  // namespace saccade::cpu

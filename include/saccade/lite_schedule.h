#pragma once

#include <saccade/tile_grid.h>
#include <saccade/tile_mask.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// LiteAttention's schedule: when every tile is computed, and from which score on a computed tile is
// dropped. docs/schedules.md describes it together with its JSON form, which has the same fields.
//
// Thresholds are <= 0, in log2 units: a tile is dropped once no softmax weight in it exceeds
// 2^threshold, measured against the running row maximum (arXiv 2511.11062 section 3.1, eq. 7, with
// eps = -threshold * ln 2). Closer to 0 drops more; -inf drops nothing.
//
// A pattern is matched with the whole path of a layer: `*` stands for any characters, dots too, `?`
// for one, [0-3] and [!ab] for one that is, or is not, in the brackets.

namespace saccade::lite {

// Thresholds of the layers that a pattern matches, in place of those of the schedule. Exactly one
// of the last four is given.
struct LayerThresholds {
  std::string layers{};                                     // pattern
  std::optional<double> threshold{};                        // of all steps and heads
  std::vector<double> thresholds{};                         // entry i is that of step i
  std::vector<double> head_thresholds{};                    // entry i is that of query head i
  std::vector<std::vector<double>> step_head_thresholds{};  // entry [i][h]: of step i and head h

  friend bool operator==(const LayerThresholds&, const LayerThresholds&) = default;
};

// What a schedule was made for. An empty text and a 0 mean "unknown".
struct Fingerprint {
  std::string model{};
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t length = 0;  // tokens
  std::int64_t steps = 0;
  std::string rule{};         // what drops a tile, such as "threshold"
  std::string measure{};      // what of a tile is judged, such as "largest_weight"
  std::string reference{};    // what scores are measured against, such as "running"
  std::string order{};        // in which a row visits its tiles, such as "linear"
  std::int64_t block_q = 0;   // 64 or 128
  std::int64_t block_k = 0;   // 64 or 128
  std::string token_order{};  // such as "frames"
  std::string saccade_version{};

  friend bool operator==(const Fingerprint&, const Fingerprint&) = default;
};

// How far outputs lay from those of dense attention, by step: relative L1 distance, root mean
// square of the difference over that of the dense output, cosine similarity. The lists are equally
// long.
struct StepErrors {
  std::vector<double> relative_l1{};
  std::vector<double> rmse{};
  std::vector<double> cosine{};

  friend bool operator==(const StepErrors&, const StepErrors&) = default;
};

// Of one layer, on the inputs of the dense trajectory.
struct LayerErrors {
  std::string layer{};
  StepErrors errors{};

  friend bool operator==(const LayerErrors&, const LayerErrors&) = default;
};

// A generation with the schedule, of a seed that it was not made from, beside the dense one: errors
// of what the model returned at each step, accumulated along its own trajectory.
struct Verification {
  std::int64_t seed = 0;
  double sparsity = 0;  // skipped share of all tiles
  StepErrors errors{};

  friend bool operator==(const Verification&, const Verification&) = default;
};

// How a schedule was found (see calibrate.h), for whoever reads it; nothing depends on it.
struct CalibrationRecord {
  std::string target{};           // "error", "sparsity" or "time"
  std::vector<double> targets{};  // of each step, relative L1; else the share that was asked for
  std::int64_t seed = 0;          // of the dense generation
  double sparsity = 0;            // of that generation, as the schedule was found or predicted
  double work = 0;  // attention that it took, as a multiple of that of the dense generation
  std::vector<LayerErrors> layers{};
  std::vector<Verification> verification{};

  friend bool operator==(const CalibrationRecord&, const CalibrationRecord&) = default;
};

struct Schedule {
  // The most specific threshold that is given wins: that of the last entry of `layer_thresholds`
  // whose pattern matches; else that of the step or of the head, of which only one may be given;
  // else `threshold`.
  double threshold = -8.0;
  std::vector<double> thresholds{};       // entry i is that of step i
  std::vector<double> head_thresholds{};  // entry i is that of query head i
  std::vector<LayerThresholds> layer_thresholds{};

  // A step is dense where any of these says so; it marks tiles like any other step. Sigma is the
  // noise level, the timestep over the number of training timesteps: 1 at the start, then falling.
  std::int64_t dense_first_steps = 1;
  std::int64_t dense_last_steps = 0;          // needs num_steps
  std::optional<double> dense_first_sigma{};  // in [0, 1]: dense while sigma >= this
  std::optional<double> dense_last_sigma{};   // in [0, 1]: dense while sigma < this
  std::int64_t num_steps = 0;                 // of a generation; 0 = unknown

  // Layers and problems that compute every tile at every step and drop none.
  std::vector<std::string> dense_layers{};  // patterns
  std::int64_t min_length = 0;              // dense below this; tokens of the longer of q and k

  // Half-open ranges of tokens, ascending and disjoint; no token of an axis is in both kinds.
  // Tiles that touch a must-do range are always computed; tiles that lie within a must-skip range
  // never are, not at dense steps either, and not where the other axis says must-do.
  std::vector<TokenRange> must_do_queries{};
  std::vector<TokenRange> must_do_keys{};
  std::vector<TokenRange> must_skip_queries{};
  std::vector<TokenRange> must_skip_keys{};

  std::optional<Fingerprint> fingerprint{};
  std::optional<CalibrationRecord> calibration{};

  friend bool operator==(const Schedule&, const Schedule&) = default;
};

// Throws InvalidArgument if a value is out of its range or the fields contradict each other. The
// message names the field by its path, such as `layer_thresholds[2].thresholds[5]`.
void validate(const Schedule& schedule);

// What a schedule says about one step of one layer.
struct StepPlan {
  bool is_dense = false;
  std::vector<double> thresholds{};  // one for all query heads, or one for each

  friend bool operator==(const StepPlan&, const StepPlan&) = default;
};

// One attention call, as far as schedules look at it.
struct Call {
  std::int64_t step = 0;          // from 0
  std::optional<double> sigma{};  // in [0, 1]; needed by dense_first_sigma and dense_last_sigma
  std::string_view layer{};       // path of the module
  std::int64_t heads = 0;         // query heads; needed by head_thresholds
  std::int64_t length = 0;        // tokens of the longer of q and k; needed by min_length
};

// The plan of a call; for layers and lengths that are always dense its threshold is -inf. Throws
// like validate, and InvalidArgument for a step that is negative or that the schedule does not
// cover, and for what the schedule needs but the call lacks.
StepPlan plan_step(const Schedule& schedule, const Call& call);

bool is_dense_layer(const Schedule& schedule, std::string_view layer);

// Throws InvalidArgument for a pattern that matches none of these paths, and names the path that
// resembles it most.
void require_layers(const Schedule& schedule, std::span<const std::string> layers);

// The must-do and must-skip ranges in tiles of their axis: ascending, disjoint, not adjacent.
struct ScheduledTiles {
  std::vector<TileRange> must_do_queries{};
  std::vector<TileRange> must_do_keys{};
  std::vector<TileRange> must_skip_queries{};
  std::vector<TileRange> must_skip_keys{};

  friend bool operator==(const ScheduledTiles&, const ScheduledTiles&) = default;
};

// Rounds must-do ranges outward to tiles and must-skip ranges inward; a last, partial tile ends
// where the tokens end. Throws like validate, and for a range beyond the tokens of `grid`.
ScheduledTiles resolve_tiles(const Schedule& schedule, const TileGrid& grid);

// What a table is made for. The number of steps is that of `sigmas` or `num_steps`, or else the one
// that the schedule covers; sigmas and num_steps must agree where both are given.
struct Generation {
  std::vector<std::string> layers{};  // paths
  std::vector<double> sigmas{};       // of the steps, in [0, 1]; empty = unknown
  std::int64_t num_steps = 0;
  std::int64_t heads = 0;
  std::int64_t length = 0;
};

struct ScheduleTable {
  std::vector<std::string> layers{};
  std::vector<double> sigmas{};                // of the steps; empty = unknown
  std::vector<std::vector<StepPlan>> plans{};  // [layer][step]
};

// The plans of a whole generation. Throws like plan_step, and for no layers and an unknown number
// of steps. Patterns may match none of the layers: require_layers is for that.
ScheduleTable resolve(const Schedule& schedule, const Generation& generation);

// One row for each run of layers and one column for each run of steps with equal plans; columns
// beyond 100 characters go on below.
std::string to_text(const ScheduleTable& table);

// The JSON form, which ends in a newline; reading it gives the same schedule, bit by bit. Throws
// like validate, and InvalidArgument for texts that are not UTF-8.
std::string to_json(const Schedule& schedule);

// Reads the JSON form from any bytes. Throws InvalidArgument, and nothing else, for what is no
// JSON, for unknown and repeated fields, wrong types and whatever validate refuses.
Schedule schedule_from_json(std::string_view text);

// Throws InvalidArgument with every field that both know and that differs.
void require_match(const Fingerprint& fingerprint, const Fingerprint& other);

}  // namespace saccade::lite

#include "methods/lite/layer_pattern.h"
#include "methods/lite/valid_schedule.h"

#include <saccade/error.h>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace saccade::lite {
namespace {

void require_threshold(double threshold, const std::string& field) {
  if (std::isnan(threshold) || threshold > 0) {
    throw InvalidArgument(fmt::format(
        "{} is {}, but must be at most 0 (log2 units; -inf drops nothing)", field, threshold));
  }
}

void require_thresholds(const std::vector<double>& thresholds, const std::string& field) {
  for (std::size_t i = 0; i < thresholds.size(); ++i) {
    require_threshold(thresholds[i], fmt::format("{}[{}]", field, i));
  }
}

void require_count(std::int64_t count, const char* field) {
  if (count < 0)
    throw InvalidArgument(fmt::format("{} is {}, but must be at least 0", field, count));
}

void require_sigma(const std::optional<double>& sigma, const char* field) {
  if (sigma && !(*sigma >= 0 && *sigma <= 1)) {
    throw InvalidArgument(fmt::format("{} is {}, but must be in [0, 1]", field, *sigma));
  }
}

void require_entry(const LayerThresholds& entry, const std::string& field) {
  require_pattern(entry.layers, field + ".layers");
  if (entry.threshold) require_threshold(*entry.threshold, field + ".threshold");
  require_thresholds(entry.thresholds, field + ".thresholds");
  require_thresholds(entry.head_thresholds, field + ".head_thresholds");
  for (std::size_t i = 0; i < entry.step_head_thresholds.size(); ++i) {
    const std::string row = fmt::format("{}.step_head_thresholds[{}]", field, i);
    require_thresholds(entry.step_head_thresholds[i], row);
    if (entry.step_head_thresholds[i].empty()) {
      throw InvalidArgument(fmt::format("{} is empty, but needs one for each query head", row));
    }
  }
  const int given = entry.threshold.has_value() + !entry.thresholds.empty() +
                    !entry.head_thresholds.empty() + !entry.step_head_thresholds.empty();
  if (given != 1) {
    throw InvalidArgument(
        fmt::format("{} has {} of threshold, thresholds, head_thresholds and step_head_thresholds, "
                    "but needs exactly 1",
                    field, given));
  }
}

void require_all_thresholds(const Schedule& schedule) {
  require_threshold(schedule.threshold, "threshold");
  require_thresholds(schedule.thresholds, "thresholds");
  require_thresholds(schedule.head_thresholds, "head_thresholds");
  if (!schedule.thresholds.empty() && !schedule.head_thresholds.empty()) {
    throw InvalidArgument(
        "thresholds of steps and head_thresholds are both given, but neither is the more specific; "
        "give one of them");
  }
  for (std::size_t i = 0; i < schedule.layer_thresholds.size(); ++i) {
    require_entry(schedule.layer_thresholds[i], fmt::format("layer_thresholds[{}]", i));
  }
}

// All lists of steps have one length, num_steps where that is known.
void require_equal_steps(const Schedule& schedule) {
  const std::int64_t covered = covered_steps(schedule);
  const auto require = [&](const auto& list, const std::string& field) {
    const auto steps = static_cast<std::int64_t>(list.size());
    if (steps == 0 || steps == covered) return;
    throw InvalidArgument(fmt::format("{} has {} entries for {} steps; give one for each step",
                                      field, steps, covered));
  };
  require(schedule.thresholds, "thresholds");
  for (std::size_t i = 0; i < schedule.layer_thresholds.size(); ++i) {
    const LayerThresholds& entry = schedule.layer_thresholds[i];
    require(entry.thresholds, fmt::format("layer_thresholds[{}].thresholds", i));
    require(entry.step_head_thresholds,
            fmt::format("layer_thresholds[{}].step_head_thresholds", i));
  }
}

void require_dense_steps(const Schedule& schedule) {
  require_count(schedule.num_steps, "num_steps");
  require_count(schedule.dense_first_steps, "dense_first_steps");
  require_count(schedule.dense_last_steps, "dense_last_steps");
  if (schedule.num_steps == 0) {
    if (schedule.dense_last_steps == 0) return;
    throw InvalidArgument(
        fmt::format("dense_last_steps is {}, but num_steps is unknown (0); give num_steps as well",
                    schedule.dense_last_steps));
  }
  if (schedule.dense_first_steps > schedule.num_steps ||
      schedule.dense_last_steps > schedule.num_steps - schedule.dense_first_steps) {
    throw InvalidArgument(fmt::format(
        "dense_first_steps is {} and dense_last_steps is {}, but there are only {} steps",
        schedule.dense_first_steps, schedule.dense_last_steps, schedule.num_steps));
  }
}

void require_dense_sigmas(const Schedule& schedule) {
  require_sigma(schedule.dense_first_sigma, "dense_first_sigma");
  require_sigma(schedule.dense_last_sigma, "dense_last_sigma");
  if (schedule.dense_first_sigma && schedule.dense_last_sigma &&
      *schedule.dense_last_sigma > *schedule.dense_first_sigma) {
    throw InvalidArgument(
        fmt::format("dense_last_sigma is {}, but must be at most dense_first_sigma, {}",
                    *schedule.dense_last_sigma, *schedule.dense_first_sigma));
  }
}

std::string name_of(const char* field, std::size_t i, const TokenRange& range) {
  return fmt::format("{}[{}] is [{}, {})", field, i, range.begin, range.end);
}

void require_ascending(const std::vector<TokenRange>& ranges, const char* field) {
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const TokenRange& range = ranges[i];
    if (range.begin < 0 || range.begin >= range.end) {
      throw InvalidArgument(name_of(field, i, range) + ", but needs 0 <= begin < end");
    }
    if (i > 0 && range.begin < ranges[i - 1].end) {
      throw InvalidArgument(
          fmt::format("{}, but must begin at or after {}, where {}[{}] ends; ranges ascend",
                      name_of(field, i, range), ranges[i - 1].end, field, i - 1));
    }
  }
}

// Ascending ranges of one axis have no token in common.
void require_disjoint(const std::vector<TokenRange>& must_do,
                      const char* do_field,
                      const std::vector<TokenRange>& must_skip,
                      const char* skip_field) {
  require_ascending(must_do, do_field);
  require_ascending(must_skip, skip_field);
  for (std::size_t i = 0, j = 0; i < must_do.size() && j < must_skip.size();) {
    if (must_do[i].begin < must_skip[j].end && must_skip[j].begin < must_do[i].end) {
      throw InvalidArgument(fmt::format("{} and {}, but no token can be in both",
                                        name_of(do_field, i, must_do[i]),
                                        name_of(skip_field, j, must_skip[j])));
    }
    must_do[i].end <= must_skip[j].end ? ++i : ++j;
  }
}

void require_block(std::int64_t block, const char* field) {
  if (block != 0 && block != 64 && block != 128) {
    throw InvalidArgument(
        fmt::format("{} is {}, but must be 64, 128 or 0 (unknown)", field, block));
  }
}

void require_fingerprint(const Fingerprint& fingerprint) {
  require_count(fingerprint.layers, "fingerprint.layers");
  require_count(fingerprint.heads, "fingerprint.heads");
  require_count(fingerprint.head_dim, "fingerprint.head_dim");
  require_count(fingerprint.length, "fingerprint.length");
  require_count(fingerprint.steps, "fingerprint.steps");
  require_block(fingerprint.block_q, "fingerprint.block_q");
  require_block(fingerprint.block_k, "fingerprint.block_k");
}

void require_errors(const StepErrors& errors, const std::string& field) {
  const std::size_t steps = errors.relative_l1.size();
  if (errors.rmse.size() == steps && errors.cosine.size() == steps) return;
  throw InvalidArgument(
      fmt::format("{} has {} entries of relative_l1, {} of rmse and {} of cosine; give all three "
                  "for each step",
                  field, steps, errors.rmse.size(), errors.cosine.size()));
}

void require_calibration(const CalibrationRecord& record) {
  for (std::size_t i = 0; i < record.layers.size(); ++i) {
    require_errors(record.layers[i].errors, fmt::format("calibration.layers[{}].errors", i));
  }
  for (std::size_t i = 0; i < record.verification.size(); ++i) {
    require_errors(record.verification[i].errors,
                   fmt::format("calibration.verification[{}].errors", i));
  }
}

}  // namespace

std::int64_t covered_steps(const Schedule& schedule) {
  std::size_t listed = schedule.thresholds.size();
  for (const LayerThresholds& entry : schedule.layer_thresholds) {
    if (listed == 0) listed = std::max(entry.thresholds.size(), entry.step_head_thresholds.size());
  }
  return schedule.num_steps > 0 ? schedule.num_steps : static_cast<std::int64_t>(listed);
}

void validate(const Schedule& schedule) {
  require_all_thresholds(schedule);
  require_dense_steps(schedule);
  require_equal_steps(schedule);
  require_dense_sigmas(schedule);
  for (std::size_t i = 0; i < schedule.dense_layers.size(); ++i) {
    require_pattern(schedule.dense_layers[i], fmt::format("dense_layers[{}]", i));
  }
  require_count(schedule.min_length, "min_length");
  require_disjoint(schedule.must_do_queries, "must_do_queries", schedule.must_skip_queries,
                   "must_skip_queries");
  require_disjoint(schedule.must_do_keys, "must_do_keys", schedule.must_skip_keys,
                   "must_skip_keys");
  if (schedule.fingerprint) require_fingerprint(*schedule.fingerprint);
  if (schedule.calibration) require_calibration(*schedule.calibration);
}

}  // namespace saccade::lite

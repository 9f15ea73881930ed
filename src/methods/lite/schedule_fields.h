#pragma once

#include <saccade/lite_schedule.h>

#include <tuple>

// The fields of a schedule with their names, once: reading, writing and comparing walk over them.

namespace saccade::lite {

// Of the JSON form that this code reads and writes.
inline constexpr std::int64_t kScheduleVersion = 1;

template <typename Object, typename Value>
struct Field {
  const char* name;
  Value Object::*member;
};

// Clang deduces the arguments of aggregates since 17.
template <typename Object, typename Value>
Field(const char*, Value Object::*) -> Field<Object, Value>;

template <typename Object>
inline constexpr std::tuple<> kFields{};

template <>
inline constexpr auto kFields<LayerThresholds> = std::tuple{
    Field{"layers", &LayerThresholds::layers},
    Field{"threshold", &LayerThresholds::threshold},
    Field{"thresholds", &LayerThresholds::thresholds},
    Field{"head_thresholds", &LayerThresholds::head_thresholds},
    Field{"step_head_thresholds", &LayerThresholds::step_head_thresholds},
};

template <>
inline constexpr auto kFields<Fingerprint> = std::tuple{
    Field{"model", &Fingerprint::model},
    Field{"layers", &Fingerprint::layers},
    Field{"heads", &Fingerprint::heads},
    Field{"head_dim", &Fingerprint::head_dim},
    Field{"length", &Fingerprint::length},
    Field{"steps", &Fingerprint::steps},
    Field{"rule", &Fingerprint::rule},
    Field{"measure", &Fingerprint::measure},
    Field{"reference", &Fingerprint::reference},
    Field{"order", &Fingerprint::order},
    Field{"block_q", &Fingerprint::block_q},
    Field{"block_k", &Fingerprint::block_k},
    Field{"token_order", &Fingerprint::token_order},
    Field{"saccade_version", &Fingerprint::saccade_version},
};

template <>
inline constexpr auto kFields<StepErrors> = std::tuple{
    Field{"relative_l1", &StepErrors::relative_l1},
    Field{"rmse", &StepErrors::rmse},
    Field{"cosine", &StepErrors::cosine},
};

template <>
inline constexpr auto kFields<LayerErrors> = std::tuple{
    Field{"layer", &LayerErrors::layer},
    Field{"errors", &LayerErrors::errors},
};

template <>
inline constexpr auto kFields<Verification> = std::tuple{
    Field{"seed", &Verification::seed},
    Field{"sparsity", &Verification::sparsity},
    Field{"errors", &Verification::errors},
};

template <>
inline constexpr auto kFields<CalibrationRecord> = std::tuple{
    Field{"target", &CalibrationRecord::target},
    Field{"targets", &CalibrationRecord::targets},
    Field{"seed", &CalibrationRecord::seed},
    Field{"sparsity", &CalibrationRecord::sparsity},
    Field{"work", &CalibrationRecord::work},
    Field{"layers", &CalibrationRecord::layers},
    Field{"verification", &CalibrationRecord::verification},
};

template <>
inline constexpr auto kFields<Schedule> = std::tuple{
    Field{"threshold", &Schedule::threshold},
    Field{"thresholds", &Schedule::thresholds},
    Field{"head_thresholds", &Schedule::head_thresholds},
    Field{"layer_thresholds", &Schedule::layer_thresholds},
    Field{"dense_first_steps", &Schedule::dense_first_steps},
    Field{"dense_last_steps", &Schedule::dense_last_steps},
    Field{"dense_first_sigma", &Schedule::dense_first_sigma},
    Field{"dense_last_sigma", &Schedule::dense_last_sigma},
    Field{"num_steps", &Schedule::num_steps},
    Field{"dense_layers", &Schedule::dense_layers},
    Field{"min_length", &Schedule::min_length},
    Field{"must_do_queries", &Schedule::must_do_queries},
    Field{"must_do_keys", &Schedule::must_do_keys},
    Field{"must_skip_queries", &Schedule::must_skip_queries},
    Field{"must_skip_keys", &Schedule::must_skip_keys},
    Field{"fingerprint", &Schedule::fingerprint},
    Field{"calibration", &Schedule::calibration},
};

// visit(name, member) for each field, in their order.
template <typename Object, typename Visit>
void for_each_field(Visit&& visit) {
  std::apply([&](const auto&... field) { (visit(field.name, field.member), ...); },
             kFields<Object>);
}

}  // namespace saccade::lite

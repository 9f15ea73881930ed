#include "replay/method_flags.h"

#include <saccade/baselines.h>
#include <saccade/error.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

namespace saccade::cli {
namespace {

const std::vector<std::string> kMethods = {"lite",     "random", "radial", "spatial",
                                           "temporal", "svg",    "pooled"};

// One of the enumerators from the first to `last`, by its name, which the parsing has checked.
template <typename Enum>
Enum enum_named(std::string_view name, Enum last) {
  int number = 0;
  while (number < static_cast<int>(last) && name_of(static_cast<Enum>(number)) != name) ++number;
  return static_cast<Enum>(number);
}

// A choice that depends on the grid alone, made once for each.
TileChoice made_once(std::function<TileMask(const TileGrid&)> make, TileSize tile) {
  std::vector<TileMask> known;
  return [=](const Context&, const TraceCall& call) mutable {
    const TileGrid grid = grid_of(call, tile);
    auto found = std::ranges::find(known, grid, &TileMask::grid);
    return found != known.end() ? *found : known.emplace_back(make(grid));
  };
}

baselines::VideoLayout video_of(const Trace& trace, const std::string& method) {
  const TraceInfo& info = trace.info();
  if (!info.video) {
    throw InvalidArgument(fmt::format(
        "method {} needs to know frames, height and width of the video, which the trace does not; "
        "lite, random and pooled do without",
        method));
  }
  if (info.token_order != "frames") {
    throw InvalidArgument(fmt::format(
        "method {} is for tokens numbered frame by frame, but those of the trace are in the order "
        "{}; record with token_order=\"frames\"",
        method, info.token_order));
  }
  return *info.video;
}

}  // namespace

template <typename Value>
CLI::Option* MethodFlags::add(CLI::App& command,
                              const char* flag,
                              Value& value,
                              const char* help,
                              std::vector<std::string> methods) {
  CLI::Option* option = command.add_option(flag, value, help)
                            ->capture_default_str()
                            ->group(fmt::format("Options of {}", fmt::join(methods, ", ")));
  options_.emplace_back(option, std::move(methods));
  return option;
}

MethodFlags::MethodFlags(CLI::App& command) : schedule_flags_(command) {
  command.add_option("--method", method_, "What is compared with dense attention")
      ->capture_default_str()
      ->check(CLI::IsMember(kMethods));
  command.add_option("--block-q", tile_.block_q, "Queries of a tile")
      ->capture_default_str()
      ->check(CLI::IsMember({64, 128}));
  command.add_option("--block-k", tile_.block_k, "Keys of a tile")
      ->capture_default_str()
      ->check(CLI::IsMember({64, 128}));
  add_rule(command);
  add_baselines(command);
}

void MethodFlags::add_rule(CLI::App& command) {
  add(command, "--measure", measure_, "What of a tile is compared with the threshold", {"lite"})
      ->check(CLI::IsMember({"largest_weight", "largest_mass", "mean_mass"}));
  add(command, "--reference", reference_, "What weights are measured against", {"lite"})
      ->check(CLI::IsMember({"running", "lse"}));
  add(command, "--order", order_, "In which a row visits its tiles", {"lite"})
      ->check(CLI::IsMember({"linear", "reversed", "alternating", "radial", "strongest"}));
  budget_option_ = add(command, "--mass-budget", mass_budget_,
                       "Softmax mass that a row of tiles may lose", {"lite"})
                       ->default_str("none");
  add(command, "--reprobe-period", reprobe_period_,
      "R: each step computes one in R of the dropped tiles; 0 = none", {"lite"});
  CLI::Option* skips = command.add_flag("--skips-values", skips_values_,
                                        "A step leaves out at once what it finds negligible");
  options_.emplace_back(skips->default_str("false")->group("Options of lite"),
                        std::vector<std::string>{"lite"});
}

void MethodFlags::add_baselines(CLI::App& command) {
  add(command, "--sparsity", sparsity_, "Share of the tiles to leave out", {"random"});
  add(command, "--seed", seed_, "Of what is drawn", {"random", "svg"});
  add(command, "--decay", decay_, "Share of the paper's width", {"radial"});
  add(command, "--window", window_, "Tokens: no band is narrower", {"radial"});
  add(command, "--sink-frames", sink_frames_, "Frames that every query sees",
      {"radial", "spatial", "temporal", "svg"});
  add(command, "--share", share_, "Of the key tiles that a row keeps",
      {"spatial", "temporal", "svg", "pooled"});
  add(command, "--sampled-tiles", sampled_tiles_, "Rows of tiles that are profiled", {"svg"});
  add(command, "--rows-per-tile", rows_per_tile_, "Queries of each of them", {"svg"});
  add(command, "--mass", mass_, "Keep tiles until their weights sum up to this", {"pooled"});
}

bool MethodFlags::is_of(const CLI::Option& option) const {
  const auto found = std::ranges::find(options_, &option, &decltype(options_)::value_type::first);
  return std::ranges::count(found->second, method_) > 0;
}

void MethodFlags::require_own_options() const {
  for (const auto& [option, methods] : options_) {
    if (option->count() == 0 || is_of(*option)) continue;
    throw CLI::ValidationError(option->get_name(), fmt::format("is for method {}, not for {}",
                                                               fmt::join(methods, ", "), method_));
  }
}

std::unique_ptr<Method> MethodFlags::method(const Trace& trace) const {
  require_own_options();
  const lite::Schedule schedule = schedule_flags_.schedule();
  const std::optional<double> scale = trace.info().scale;
  if (method_ != "lite") return make_chosen(choice(trace, schedule), schedule, tile_, scale);
  lite::Rule rule{.measure = enum_named(measure_, Measure::mean_mass),
                  .reference = enum_named(reference_, lite::Reference::lse),
                  .order = enum_named(order_, lite::Order::strongest),
                  .reprobe_period = reprobe_period_,
                  .skips_values = skips_values_};
  if (budget_option_->count() > 0) rule.mass_budget = mass_budget_;
  lite::validate(rule);
  return make_lite(schedule, rule, tile_, scale);
}

TileChoice MethodFlags::choice(const Trace& trace, const lite::Schedule& schedule) const {
  const auto tokens = [schedule] {  // spans of a schedule that the choice owns
    return baselines::ProtectedTokens{schedule.must_do_queries, schedule.must_do_keys};
  };
  if (method_ == "random") {
    return made_once(
        [tokens, sparsity = sparsity_, seed = seed_](const TileGrid& grid) {
          return baselines::random_tiles(grid, sparsity, seed, tokens());
        },
        tile_);
  }
  if (method_ == "pooled") return pooled_choice(trace, tokens);
  const baselines::VideoLayout video = video_of(trace, method_);
  if (method_ == "radial") {
    const baselines::RadialOptions options{
        .decay = decay_, .window = window_, .sink_frames = sink_frames_};
    return made_once(
        [=](const TileGrid& grid) {
          baselines::RadialOptions own = options;
          own.protected_tokens = tokens();
          return baselines::radial_tiles(grid, video, own);
        },
        tile_);
  }
  const auto nearest = [=, share = share_, sink_frames = sink_frames_] {
    return baselines::NearestOptions{.share = TileShare::of_ratio(share),
                                     .sink_frames = sink_frames,
                                     .protected_tokens = tokens()};
  };
  const TileChoice spatial = made_once(
      [=](const TileGrid& grid) { return baselines::spatial_tiles(grid, video, nearest()); },
      tile_);
  const TileChoice temporal = made_once(
      [=](const TileGrid& grid) { return baselines::temporal_tiles(grid, video, nearest()); },
      tile_);
  if (method_ == "spatial") return spatial;
  return method_ == "temporal" ? temporal : svg_choice(trace, spatial, temporal);
}

TileChoice MethodFlags::pooled_choice(const Trace& trace, ProtectedChoice tokens) const {
  const baselines::PooledOptions options{.scale = trace.info().scale,
                                         .share = TileShare::of_ratio(share_),
                                         .mass = mass_,
                                         .block_q = tile_.block_q,
                                         .block_k = tile_.block_k};
  return [=](const Context& context, const TraceCall& call) {
    baselines::PooledOptions own = options;
    own.protected_tokens = tokens();
    return baselines::pooled_tiles(context, {.q = call.q, .k = call.k}, own);
  };
}

TileChoice MethodFlags::svg_choice(const Trace& trace,
                                   TileChoice spatial,
                                   TileChoice temporal) const {
  const baselines::SvgOptions options{.scale = trace.info().scale,
                                      .sampled_tiles = sampled_tiles_,
                                      .rows_per_tile = rows_per_tile_,
                                      .seed = seed_};
  return [=](const Context& context, const TraceCall& call) {
    const TileMask near = spatial(context, call), same = temporal(context, call);
    return baselines::svg_tiles(
        context,
        {.q = call.q, .k = call.k, .v = call.v, .spatial = near.view(), .temporal = same.view()},
        options);
  };
}

std::vector<std::pair<std::string, std::string>> MethodFlags::own_options() const {
  std::vector<std::pair<std::string, std::string>> own;
  for (const auto& [option, methods] : options_) {
    if (!is_of(*option)) continue;
    own.emplace_back(option->get_single_name(),
                     option->count() > 0 ? option->results().front() : option->get_default_str());
  }
  return own;
}

std::string MethodFlags::description() const {
  std::string text = fmt::format("{}, tiles {} x {}", method_, tile_.block_q, tile_.block_k);
  for (const auto& [name, value] : own_options()) text += fmt::format(", {} {}", name, value);
  return text;
}

nlohmann::ordered_json MethodFlags::json() const {
  nlohmann::ordered_json json = {
      {"name", method_}, {"block_q", tile_.block_q}, {"block_k", tile_.block_k}};
  for (const auto& [name, value] : own_options()) {
    using Json = nlohmann::ordered_json;
    const bool is_number = Json::accept(value);
    json["options"][name] = is_number ? Json::parse(value) : Json(value);
  }
  json["schedule"] = nlohmann::ordered_json::parse(lite::to_json(schedule_flags_.schedule()));
  return json;
}

}  // namespace saccade::cli

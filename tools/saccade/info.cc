#include "commands.h"
#include "machine.h"

#include <saccade/context.h>
#include <saccade/executor.h>
#include <saccade/info.h>

#include <fmt/format.h>

#include <memory>

namespace saccade::cli {
namespace {

nlohmann::ordered_json describe() {
  nlohmann::ordered_json info = describe_machine();
  info["threads"] = default_executor().max_workers();
  info["default_backend"] = name_of(resolve_backend(Context{}));
  for (const BackendInfo& backend : backends()) {
    info["backends"].push_back(
        {{"name", backend.name}, {"available", backend.available}, {"details", backend.details}});
  }
  return info;
}

void print(const nlohmann::ordered_json& info) {
  const auto text = [](const nlohmann::ordered_json& value) { return value.get<std::string>(); };
  const std::string commit_hash = text(info["commit"]);
  fmt::print("saccade {} (commit {})\n\n", text(info["version"]),
             commit_hash.empty() ? "unknown" : commit_hash);
  fmt::print("CPU          {}\n", text(info["cpu_model"]));
  fmt::print("targets     ");
  for (const auto& target : info["cpu_targets"]) fmt::print(" {}", text(target));
  fmt::print(" (the first is in use)\n");
  fmt::print("threads      {}\n\n", info["threads"].get<int>());
  for (const auto& backend : info["backends"]) {
    fmt::print("{:<12} {:<10} {}\n", text(backend["name"]),
               !backend["available"].get<bool>()            ? "missing"
               : backend["name"] == info["default_backend"] ? "default"
                                                            : "available",
               text(backend["details"]));
  }
  fmt::print("\n");
  for (const auto& [name, value] : info["environment"].items()) {
    fmt::print("{:<20} {}\n", name, value.is_null() ? "not set" : text(value));
  }
}

}  // namespace

void add_info_command(CLI::App& app, Invocation&) {
  CLI::App* command = app.add_subcommand("info", "Show version, backends, CPU and settings");
  const auto as_json = std::make_shared<bool>(false);
  command->add_flag("--json", *as_json, "Print JSON");
  command->callback([as_json] {
    const nlohmann::ordered_json info = describe();
    if (*as_json) {
      fmt::print("{}\n", info.dump(2));
    } else {
      print(info);
    }
  });
}

}  // namespace saccade::cli

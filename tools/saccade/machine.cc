#include "machine.h"

#include <saccade/info.h>

#include <cstdlib>
#include <fstream>

namespace saccade::cli {

std::string cpu_model() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

nlohmann::ordered_json describe_machine() {
  nlohmann::ordered_json environment = nlohmann::ordered_json::object();
  for (const char* name : kEnvironmentVariables) {
    const char* value = std::getenv(name);
    environment[name] = value ? nlohmann::ordered_json(value) : nullptr;
  }
  return {{"version", version()},
          {"commit", commit()},
          {"cpu_model", cpu_model()},
          {"cpu_targets", cpu_targets()},
          {"environment", environment}};
}

}  // namespace saccade::cli

#include "ops.h"

#include <saccade/info.h>

#include <nlohmann/json.hpp>

namespace saccade::python {

std::string info() {
  nlohmann::ordered_json json;
  json["version"] = version();
  json["commit"] = commit();
  json["backends"] = nlohmann::ordered_json::array();
  for (const BackendInfo& backend : backends()) {
    json["backends"].push_back(
        {{"name", backend.name}, {"available", backend.available}, {"details", backend.details}});
  }
  json["cpu_targets"] = cpu_targets();
  return json.dump();
}

}  // namespace saccade::python

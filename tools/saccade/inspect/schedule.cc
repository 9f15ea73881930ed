#include "inspect/schedule.h"

#include <saccade/error.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <fstream>

namespace saccade::cli {
namespace {

std::string table_of(const lite::Schedule& schedule) {
  const bool has_patterns = !schedule.dense_layers.empty() || !schedule.layer_thresholds.empty();
  if (has_patterns) {
    return "`saccade schedule --from FILE --layers PATH,PATH,...` makes a table of layers and "
           "steps.\n";
  }
  try {
    return lite::to_text(lite::resolve(schedule, {.layers = {"every layer"}}));
  } catch (const InvalidArgument& error) {  // it needs to know what a generation is like
    return fmt::format("No table: {}. `saccade schedule --from FILE` takes what is missing.\n",
                       error.what());
  }
}

}  // namespace

bool is_json_object(const std::filesystem::path& path) {
  char head[8] = {'\0', 1, 1, 1, 1, 1, 1, 1};  // not those of a length
  std::ifstream(path, std::ios::binary).read(head, sizeof(head));
  return head[0] == '{' && head[7] != '\0';
}

std::string describe(const lite::Schedule& schedule) {
  std::string text = "schedule of LiteAttention\n";
  const auto json = nlohmann::ordered_json::parse(lite::to_json(schedule));
  for (const auto& [name, value] : json.items()) {
    const std::string shown = value.is_string() ? value.get<std::string>() : value.dump();
    text += fmt::format("  {}: {}\n", name, shown);
  }
  return text + "\n" + table_of(schedule);
}

}  // namespace saccade::cli

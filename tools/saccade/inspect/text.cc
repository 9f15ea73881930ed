#include "inspect/text.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>

namespace saccade::cli {

std::string printable(const std::string& text) {
  constexpr std::size_t kMostBytes = 200;
  const bool is_long = text.size() > kMostBytes;
  const std::string escaped = nlohmann::json(text.substr(0, kMostBytes))
                                  .dump(-1, ' ', true, nlohmann::json::error_handler_t::ignore);
  return escaped.substr(1, escaped.size() - 2) + (is_long ? "..." : "");
}

std::string Table::text() const {
  std::vector<std::size_t> widths(rows_.front().size());
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i + 1 < row.size(); ++i) {
      text += fmt::format("{:<{}}  ", row[i], widths[i]);
    }
    text += fmt::format("{:>{}}\n", row.back(), widths.back());
  }
  return text;
}

}  // namespace saccade::cli

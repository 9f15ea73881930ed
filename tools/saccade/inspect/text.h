#pragma once

#include <string>
#include <vector>

namespace saccade::cli {

// Names and metadata are whatever a file holds: control characters would speak to the terminal.
// Escaped as in JSON, ASCII, and cut after 200 bytes.
std::string printable(const std::string& text);

// Rows of cells in columns as wide as their widest one, two spaces between them; the last column is
// aligned to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> heading) : rows_{std::move(heading)} {}

  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string text() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace saccade::cli

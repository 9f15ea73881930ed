#pragma once

#include <string_view>

namespace saccade::cli {

// One line on stderr, overwritten as work goes on and erased at its end. Shows nothing unless
// stderr is a terminal.
class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(std::string_view text);

 private:
  const bool visible_;
};

}  // namespace saccade::cli

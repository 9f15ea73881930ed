#include "progress_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

namespace saccade::cli {
namespace {

constexpr std::string_view kEraseLine = "\r\033[K";

}  // namespace

ProgressLine::ProgressLine() : visible_(isatty(STDERR_FILENO) != 0) {}

ProgressLine::~ProgressLine() {
  if (visible_) fmt::print(stderr, "{}", kEraseLine);
}

void ProgressLine::show(std::string_view text) {
  if (visible_) fmt::print(stderr, "{}{}", kEraseLine, text);
}

}  // namespace saccade::cli

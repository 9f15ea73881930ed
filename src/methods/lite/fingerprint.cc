#include "methods/lite/schedule_fields.h"

#include <saccade/error.h>

#include <fmt/format.h>

namespace saccade::lite {
namespace {

bool is_known(const std::string& text) {
  return !text.empty();
}

bool is_known(std::int64_t count) {
  return count != 0;
}

std::string shown(const std::string& text) {
  return fmt::format("'{}'", text);
}

std::string shown(std::int64_t count) {
  return fmt::format("{}", count);
}

}  // namespace

void require_match(const Fingerprint& fingerprint, const Fingerprint& other) {
  std::string differences;
  for_each_field<Fingerprint>([&](const char* name, auto member) {
    const auto& here = fingerprint.*member;
    const auto& there = other.*member;
    if (!is_known(here) || !is_known(there) || here == there) return;
    differences += fmt::format("{}{} is {}, not {}", differences.empty() ? "" : "; ", name,
                               shown(here), shown(there));
  });
  if (!differences.empty()) throw InvalidArgument("the fingerprints differ: " + differences);
}

}  // namespace saccade::lite

#include <saccade/info.h>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace saccade {

std::string_view version() {
  return SACCADE_VERSION;
}

std::string_view commit() {
  return SACCADE_COMMIT;
}

std::vector<BackendInfo> backends() {
  return {
      {"reference", true, "scalar double precision, one thread; the definition of every result"},
      {"cpu", true, fmt::format("instruction sets: {}", fmt::join(cpu_targets(), ", "))},
      {"cuda", false, "not in this version of saccade"},
  };
}

}  // namespace saccade

#include <saccade/error.h>
#include <saccade/lite_schedule.h>

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// Whatever the bytes are, schedule_from_json returns or throws InvalidArgument; what it returns can
// be written and read again, and answers or refuses every question.

namespace saccade::lite {
namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

std::optional<Schedule> parse(std::string_view text) {
  try {
    return schedule_from_json(text);
  } catch (const InvalidArgument&) {
    return std::nullopt;
  }
}

template <typename Question>
void ask(Question question) {
  try {
    question();
  } catch (const InvalidArgument&) {
  }
}

// As a run with and without a scheduler's sigmas asks.
void use(const Schedule& schedule) {
  const std::vector<std::string> layers = {"a.0.b", "a.1.b"};
  const Generation known = {.layers = layers, .sigmas = {1, 0.5, 0.25}, .heads = 2, .length = 300};
  ask([&] { plan_step(schedule, {.step = 1, .sigma = 0.5, .layer = "a.1.b", .heads = 2}); });
  ask([&] { to_text(resolve(schedule, known)); });
  ask([&] { to_text(resolve(schedule, {.layers = layers, .num_steps = 3})); });
  ask([&] { require_layers(schedule, layers); });
  ask([&] { resolve_tiles(schedule, {.batch = 1, .heads = 1, .q_len = 300, .k_len = 200}); });
  ask([&] {
    if (schedule.fingerprint) require_match(*schedule.fingerprint, {.model = "m", .heads = 2});
  });
}

}  // namespace
}  // namespace saccade::lite

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace saccade::lite;
  const auto schedule = parse({reinterpret_cast<const char*>(data), size});
  if (!schedule) return 0;
  const std::string text = to_json(*schedule);
  require(schedule_from_json(text) == *schedule);
  require(to_json(schedule_from_json(text)) == text);
  use(*schedule);
  return 0;
}

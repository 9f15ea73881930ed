#include <saccade/error.h>
#include <saccade/lite.h>

#include <cmath>

namespace saccade::lite {

std::int64_t Clock::advance(double timestep) {
  if (std::isnan(timestep)) throw InvalidArgument("timestep is NaN, but must be a number");
  if (!timestep_ || timestep > *timestep_) {
    step_ = 0;
  } else if (timestep < *timestep_) {
    ++step_;
  }
  timestep_ = timestep;
  return step_;
}

bool must_reset(const std::optional<LastCall>& last, const LastCall& now) {
  return !last || now.step == 0 || now.step < last->step || now.grid != last->grid;
}

}  // namespace saccade::lite

#include <saccade/error.h>
#include <saccade/measure.h>

#include <fmt/format.h>

namespace saccade {

std::string_view name_of(Measure measure) {
  switch (measure) {
    case Measure::largest_weight:
      return "largest_weight";
    case Measure::largest_mass:
      return "largest_mass";
    case Measure::mean_mass:
      return "mean_mass";
  }
  throw InvalidArgument(fmt::format("measure is {}, but must be a value of saccade::Measure",
                                    static_cast<int>(measure)));
}

}  // namespace saccade

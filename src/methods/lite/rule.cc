#include <saccade/error.h>
#include <saccade/lite.h>

#include <fmt/format.h>

#include <string>

namespace saccade::lite {

std::string_view name_of(Reference reference) {
  return reference == Reference::running ? "running" : "lse";
}

std::string_view name_of(Order order) {
  switch (order) {
    case Order::linear:
      return "linear";
    case Order::reversed:
      return "reversed";
    case Order::alternating:
      return "alternating";
    case Order::radial:
      return "radial";
    case Order::strongest:
      return "strongest";
  }
  throw InvalidArgument(fmt::format("order is {}, but must be a value of saccade::lite::Order",
                                    static_cast<int>(order)));
}

VisitOrder visit_order(Order order, std::int64_t step) {
  switch (order) {
    case Order::linear:
      return VisitOrder::linear;
    case Order::reversed:
      return VisitOrder::reversed;
    case Order::alternating:
      return step % 2 == 0 ? VisitOrder::linear : VisitOrder::reversed;
    case Order::radial:
      return VisitOrder::radial;
    case Order::strongest:
      return VisitOrder::strongest;
  }
  throw InvalidArgument(fmt::format("order is {}, but must be a value of saccade::lite::Order",
                                    static_cast<int>(order)));
}

void validate(const Rule& rule) {
  if (name_of(rule.measure);
      rule.measure != Measure::largest_weight && rule.reference != Reference::running) {
    throw InvalidArgument(fmt::format(
        "reference is {}, but the {} is a share of the step's own softmax and takes none; leave it "
        "at {}, or measure the {}",
        name_of(rule.reference), name_of(rule.measure), name_of(Reference::running),
        name_of(Measure::largest_weight)));
  }
  if (rule.order == Order::strongest &&
      (rule.measure != Measure::largest_weight || rule.reference != Reference::running)) {
    throw InvalidArgument(fmt::format(
        "order is {}, but with the measure {} and the reference {} the order changes rounding "
        "only; leave it at {}, or measure the {} against the {} reference",
        name_of(rule.order), name_of(rule.measure), name_of(rule.reference), name_of(Order::linear),
        name_of(Measure::largest_weight), name_of(Reference::running)));
  }
  if (rule.skips_values && (rule.measure != Measure::largest_weight ||
                            rule.reference != Reference::running || rule.mass_budget)) {
    throw InvalidArgument(fmt::format(
        "skips_values leaves out weights that are small against the running maximum, which {}",
        rule.mass_budget
            ? std::string("no mass_budget pays for; give one of the two")
            : fmt::format("the measure {} and the reference {} do not tell; measure the {} against "
                          "the {} reference",
                          name_of(rule.measure), name_of(rule.reference),
                          name_of(Measure::largest_weight), name_of(Reference::running))));
  }
  if (rule.mass_budget && !(*rule.mass_budget >= 0)) {
    throw InvalidArgument(
        fmt::format("mass_budget is {}, but must be at least 0", *rule.mass_budget));
  }
  if (rule.reprobe_period < 0) {
    throw InvalidArgument(fmt::format("reprobe_period is {}, but must be at least 0 (0 = never)",
                                      rule.reprobe_period));
  }
}

bool needs_scores(const StepOptions& options) {
  return options.is_partial || options.rule.mass_budget.has_value() ||
         options.rule.order == Order::strongest || options.plan.thresholds.size() > 1;
}

}  // namespace saccade::lite

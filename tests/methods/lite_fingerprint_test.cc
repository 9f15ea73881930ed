#include "support/expect_error.h"

#include <saccade/lite_schedule.h>

namespace saccade::lite {
namespace {

const Fingerprint kWan = {.model = "Wan2.1-T2V-1.3B",
                          .layers = 30,
                          .heads = 12,
                          .head_dim = 128,
                          .length = 32760,
                          .steps = 50,
                          .rule = "threshold",
                          .measure = "largest_weight",
                          .reference = "running",
                          .block_q = 128,
                          .block_k = 64,
                          .token_order = "linear",
                          .saccade_version = "0.1.0"};

TEST(LiteFingerprintTest, EqualOnesMatch) {
  EXPECT_NO_THROW(require_match(kWan, kWan));
}

TEST(LiteFingerprintTest, NamesEveryDifference) {
  const Fingerprint other = {.model = "Wan2.2",
                             .layers = 40,
                             .heads = 24,
                             .head_dim = 64,
                             .length = 75600,
                             .steps = 20,
                             .rule = "budget",
                             .measure = "mean_mass",
                             .reference = "lse",
                             .block_q = 64,
                             .block_k = 128,
                             .token_order = "blocks",
                             .saccade_version = "0.2.0"};
  test::expect_error<InvalidArgument>(
      {"model is 'Wan2.1-T2V-1.3B', not 'Wan2.2'", "layers is 30, not 40", "heads is 12, not 24",
       "head_dim is 128, not 64", "length is 32760, not 75600", "steps is 50, not 20",
       "rule is 'threshold', not 'budget'", "measure is 'largest_weight', not 'mean_mass'",
       "reference is 'running', not 'lse'", "block_q is 128, not 64", "block_k is 64, not 128",
       "token_order is 'linear', not 'blocks'", "saccade_version is '0.1.0', not '0.2.0'"},
      [&] { require_match(kWan, other); });
}

TEST(LiteFingerprintTest, WhatOneDoesNotKnowMatches) {
  EXPECT_NO_THROW(require_match(kWan, {}));
  EXPECT_NO_THROW(require_match({}, kWan));
  test::expect_error<InvalidArgument>({"the fingerprints differ: heads is 12, not 40"},
                                      [] { require_match(kWan, {.heads = 40}); });
}

}  // namespace
}  // namespace saccade::lite

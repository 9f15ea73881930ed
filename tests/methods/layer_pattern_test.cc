#include "methods/lite/layer_pattern.h"

#include "support/expect_error.h"

#include <gtest/gtest.h>

#include <string>

namespace saccade::lite {
namespace {

TEST(LayerPatternTest, MatchesWholePaths) {
  const struct {
    const char* pattern;
    const char* path;
    bool expected;
  } kCases[] = {
      {"blocks.0.attn1", "blocks.0.attn1", true},
      {"blocks.0.attn1", "blocks.0.attn10", false},
      {"blocks.0.attn1", "transformer.blocks.0.attn1", false},
      {"*blocks.0.attn1", "transformer.blocks.0.attn1", true},
      {"*", "", true},
      {"*", "blocks.0.attn1", true},
      {"**", "a", true},
      {"?", "", false},
      {"?", "ab", false},
      {"blocks.?.*", "blocks.7.attn1", true},
      {"blocks.?.*", "blocks.17.attn1", false},
      {"blocks.1*", "blocks.17.attn1", true},
      {"*.attn1", "blocks.0.attn1.attn2", false},
      {"*.attn1", "attn1.attn2.attn1", true},
      {"*a*b*c", "abcabc", true},
      {"*a*b*c", "abcab", false},
      {"blocks.[0-3].*", "blocks.3.attn1", true},
      {"blocks.[0-3].*", "blocks.4.attn1", false},
      {"blocks.[!0-3].*", "blocks.4.attn1", true},
      {"blocks.[!0-3].*", "blocks.0.attn1", false},
      {"*[79]", "blocks.79", true},
      {"[a-]x", "-x", true},
      {"[]]x", "]x", true},
      {"[!]]x", "]x", false},
      {"[*]", "*", true},
      {"[*]", "a", false},
      {"[3-0]", "2", false},
      {"x", "", false},
      {"", "", true},
  };
  for (const auto& [pattern, path, expected] : kCases) {
    EXPECT_EQ(matches(pattern, path), expected) << pattern << " against " << path;
  }
}

TEST(LayerPatternTest, TakesTimeInProportionToBothLengths) {
  const std::string path(20'000, 'a');
  EXPECT_FALSE(matches("*a*a*a*a*a*a*a*a*a*b", path));
}

TEST(LayerPatternTest, RefusesWhatIsNoPattern) {
  for (const char* pattern : {"[", "[]", "[!]", "blocks.[0-3", "a[]b"}) {
    test::expect_error<InvalidArgument>({"dense_layers[1] is '", "no ]"},
                                        [&] { require_pattern(pattern, "dense_layers[1]"); });
  }
  test::expect_error<InvalidArgument>({"dense_layers[1] is empty"},
                                      [] { require_pattern("", "dense_layers[1]"); });
  for (const char* pattern : {"*", "]", "[]]", "[!]]", "a[0-9]*?"}) {
    EXPECT_NO_THROW(require_pattern(pattern, "dense_layers[1]"));
  }
}

}  // namespace
}  // namespace saccade::lite

#pragma once

#include <saccade/context.h>
#include <saccade/error.h>

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <string_view>
#include <typeinfo>
#include <vector>

namespace saccade::test {

using MessageParts = std::vector<std::string>;

// Expects an exception of exactly this class whose message holds all parts.
template <typename ExpectedError, typename Function>
void expect_error(const MessageParts& parts, Function&& function) {
  try {
    function();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(typeid(error), typeid(ExpectedError)) << error.what();
    for (const std::string& part : parts) {
      EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos)
          << "'" << error.what() << "' does not say '" << part << "'";
    }
  }
}

// One way to spoil a legal call, and what the message must say about it.
template <typename Call>
struct Mistake {
  std::function<void(Call&)> make;
  MessageParts message;
};

// What only another build could do.
inline bool is_unsupported(const MessageParts& message) {
  return message.front().find("lies on cuda") != std::string::npos;
}

template <typename Function>
void expect_mistake(const MessageParts& message, Function&& function) {
  if (is_unsupported(message)) {
    expect_error<Unsupported>(message, function);
  } else {
    expect_error<InvalidArgument>(message, function);
  }
}

// Expects `Call` to run as it is on every backend, to fail after each mistake, and to leave its
// outputs alone then. Call has run(context) and is_untouched().
template <typename Call>
void expect_mistakes(const std::vector<Mistake<Call>>& mistakes) {
  for (const Backend backend : {Backend::reference, Backend::cpu}) {
    const Context context{.backend = backend};
    EXPECT_NO_THROW(Call().run(context));
    for (const Mistake<Call>& mistake : mistakes) {
      SCOPED_TRACE(mistake.message.front());
      Call call;
      mistake.make(call);
      expect_mistake(mistake.message, [&] { call.run(context); });
      EXPECT_TRUE(call.is_untouched());
    }
  }
}

}  // namespace saccade::test

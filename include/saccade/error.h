#pragma once

#include <stdexcept>

namespace saccade {

// Every exception that saccade throws on purpose. The message names the limit, the value that was
// given and the nearest legal choice. Outputs are untouched whenever one of these is thrown.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The call contradicts the documented contract: shapes that disagree, a NaN threshold, a mask of
// another grid, a workspace that is too small.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

// The call is meaningful, but the chosen backend does not implement it.
class Unsupported : public Error {
 public:
  using Error::Error;
};

// The system refuses a file: it is not there, not a regular file, not readable or writable, or the
// disk is full. What a file holds is judged by InvalidArgument.
class FileError : public Error {
 public:
  using Error::Error;
};

}  // namespace saccade

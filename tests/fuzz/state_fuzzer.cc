#include "core/files/safetensors_header.h"
#include "inspect/state.h"

#include <saccade/error.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

// Whatever the tensors of a file are, describing them as states of LiteAttention gives text that a
// terminal can show, or throws InvalidArgument. (What is no safetensors file never comes so far:
// that is for safetensors_fuzzer.cc. The metadata are Python's: test_lite_state_random.py.)
//
// An input is three bytes - which tensors there are, whether they are what they should be, and how
// long the name of the state is - then the name, the 64 bytes of its position, and its mask.

namespace saccade {
namespace {

using Bytes = std::vector<std::byte>;

void require(bool condition) {
  if (!condition) std::abort();
}

class Input {
 public:
  explicit Input(std::span<const std::byte> bytes) : rest_(bytes) {}

  // The next bytes: fewer where there are no more.
  std::span<const std::byte> take(std::size_t count) {
    const auto taken = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }

  unsigned byte() {
    const auto taken = take(1);
    return taken.empty() ? 0 : std::to_integer<unsigned>(taken[0]);
  }

 private:
  std::span<const std::byte> rest_;
};

class StateFile {
 public:
  StateFile() { header_.metadata = {{"saccade.lite_state", "{}"}}; }

  // I64, as many as the bytes hold; with `change`, of another dtype or rank.
  void add(const std::string& name, std::span<const std::byte> bytes, unsigned change) {
    constexpr StoredDType kDTypes[] = {StoredDType::i64, StoredDType::u64, StoredDType::f64,
                                       StoredDType::c64};
    const std::uint64_t begin = data_.size();
    const std::size_t count = bytes.size() / sizeof(std::int64_t);
    TensorEntry entry{name, kDTypes[change & 3], {static_cast<std::int64_t>(count)}, begin};
    if (change & 4) entry.shape.push_back(1);
    entry.end = begin + count * sizeof(std::int64_t);
    data_.insert(data_.end(), bytes.begin(), bytes.begin() + (entry.end - begin));
    header_.tensors.push_back(std::move(entry));
  }

  // Throws InvalidArgument for a name that is not UTF-8.
  Bytes encode() const {
    const std::string prefix = encode_header(header_);
    const auto prefix_bytes = std::as_bytes(std::span(prefix));
    Bytes bytes(prefix_bytes.begin(), prefix_bytes.end());
    bytes.insert(bytes.end(), data_.begin(), data_.end());
    return bytes;
  }

 private:
  SafetensorsHeader header_;
  Bytes data_;
};

StateFile file_of(Input input) {
  const unsigned parts = input.byte(), changes = input.byte();
  const auto name_bytes = input.take(input.byte());
  const std::string name(reinterpret_cast<const char*>(name_bytes.data()), name_bytes.size());
  const std::string layer = name.substr(0, name.rfind('/') + 1);
  const auto position = input.take(8 * sizeof(std::int64_t));
  const auto mask = input.take(4096);
  StateFile file;
  if (~parts & 1) file.add(name + ".position", position, changes & 7);
  if (~parts & 2) file.add(name + ".mask", mask, changes >> 3 & 7);
  if (parts & 4) file.add(layer + "*.position", position, 0);
  if (parts & 8) file.add(layer + "*.mask", mask, changes >> 3 & 7);
  if (parts & 16) file.add(name + ".ref", {}, 0);
  if (parts & 32) file.add(name + ".spent", {}, 0);
  return file;
}

std::optional<std::string> describe(std::span<const std::byte> bytes) {
  try {
    const SafetensorsFile file = SafetensorsFile::parse(bytes);
    require(cli::is_state(file));
    return cli::describe_state(file);
  } catch (const InvalidArgument&) {
    return std::nullopt;
  }
}

}  // namespace
}  // namespace saccade

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace saccade;
  const StateFile file = file_of(Input(std::as_bytes(std::span(data, size))));
  Bytes bytes;
  try {
    bytes = file.encode();
  } catch (const InvalidArgument&) {
    return 0;
  }
  const auto text = describe(bytes);
  const auto is_shown = [](char c) { return c == '\n' || (c >= ' ' && c <= '~'); };
  require(!text || std::ranges::all_of(*text, is_shown));
  return 0;
}

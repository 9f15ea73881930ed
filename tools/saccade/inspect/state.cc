#include "inspect/state.h"

#include "inspect/text.h"

#include <saccade/error.h>
#include <saccade/tile_mask.h>

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <vector>

namespace saccade::cli {
namespace {

constexpr const char* kStateKey = "saccade.lite_state";
constexpr std::string_view kPosition = ".position";
constexpr std::string_view kMask = ".mask";
constexpr std::string_view kAllBranches = "*";  // in place of a branch: the mask that all share

[[noreturn]] void refuse(const std::string& name, const std::string& reason) {
  throw InvalidArgument(fmt::format("the state {} {}", printable(name), reason));
}

// Elements of a file need not be aligned.
template <typename T>
std::vector<T> elements_of(const SafetensorsFile& file,
                           const std::string& name,
                           StoredDType dtype) {
  const auto found = file.tensors().find(name);
  if (found == file.tensors().end() || found->second.dtype != dtype) {
    refuse(name, fmt::format("is missing or not {}", name_of(dtype)));
  }
  std::vector<T> elements(found->second.bytes.size() / sizeof(T));
  if (!elements.empty()) {
    std::memcpy(elements.data(), found->second.bytes.data(), elements.size() * sizeof(T));
  }
  return elements;
}

struct Position {
  TileGrid grid;
  std::int64_t step;
  bool is_new;
};

Position position_of(const SafetensorsFile& file, const std::string& name) {
  const auto numbers =
      elements_of<std::int64_t>(file, name + std::string(kPosition), StoredDType::i64);
  if (numbers.size() != 8) refuse(name, "has no position of 8 numbers");
  if (numbers[4] != static_cast<int>(numbers[4]) || numbers[5] != static_cast<int>(numbers[5])) {
    refuse(name, "has tiles of no known size");
  }
  if (numbers[6] < 0 || numbers[7] < 0 || numbers[7] > 1) {
    refuse(name, fmt::format("has step {} and is_new {}", numbers[6], numbers[7]));
  }
  const Position position{{.batch = numbers[0],
                           .heads = numbers[1],
                           .q_len = numbers[2],
                           .k_len = numbers[3],
                           .block_q = static_cast<int>(numbers[4]),
                           .block_k = static_cast<int>(numbers[5])},
                          numbers[6],
                          numbers[7] != 0};
  validate(position.grid);
  return position;
}

// The layer, with a slash, of a state in the file of a model; empty in the file of one layer.
std::string prefix_of(const std::string& name) {
  return name.substr(0, name.rfind('/') + 1);
}

std::string branch_of(const std::string& name) {
  return name.substr(prefix_of(name).size());
}

// The tensor that holds the mask of a state: its own, or that of all branches of its layer.
std::string mask_of(const SafetensorsFile& file, const std::string& name) {
  const std::string own = name + std::string(kMask);
  const std::string shared = prefix_of(name) + std::string(kAllBranches) + std::string(kMask);
  return file.tensors().contains(shared) && !file.tensors().contains(own) ? shared : own;
}

double sparsity_of(const SafetensorsFile& file, const std::string& name, const TileGrid& grid) {
  auto words = elements_of<std::uint64_t>(file, mask_of(file, name), StoredDType::i64);
  if (static_cast<std::int64_t>(words.size()) != grid.words()) {
    refuse(name, fmt::format("has a mask of {} words, but its grid needs {}", words.size(),
                             grid.words()));
  }
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] & ~grid.valid_bits(static_cast<std::int64_t>(i) % grid.words_per_row())) {
      refuse(name, "has a mask with bits beyond its tiles");
    }
  }
  return 1 - static_cast<double>(count_active({.grid = grid, .words = words.data()})) /
                 static_cast<double>(grid.tiles());
}

std::vector<std::string> row_of(const SafetensorsFile& file, const std::string& name) {
  const Position position = position_of(file, name);
  const TileGrid& grid = position.grid;
  const std::string prefix = prefix_of(name);
  return {prefix.empty() ? "-" : printable(prefix.substr(0, prefix.size() - 1)),
          printable(branch_of(name)),
          position.is_new ? "new" : std::to_string(position.step),
          std::to_string(grid.batch),
          std::to_string(grid.heads),
          std::to_string(grid.q_len),
          std::to_string(grid.k_len),
          fmt::format("{} x {}", grid.block_q, grid.block_k),
          file.tensors().contains(name + ".ref") ? "yes" : "no",
          file.tensors().contains(name + ".spent") ? "yes" : "no",
          file.tensors().contains(name + ".scores") ? "yes" : "no",
          fmt::format("{:.1f} %", 100 * sparsity_of(file, name, grid))};
}

}  // namespace

bool is_state(const SafetensorsFile& file) {
  return file.metadata().contains(kStateKey);
}

std::string describe_state(const SafetensorsFile& file) {
  Table table({"layer", "branch", "step", "batch", "heads", "queries", "keys", "tiles", "ref",
               "spent", "scores", "dropped"});
  int states = 0;
  for (const auto& [name, tensor] : file.tensors()) {
    if (!name.ends_with(kPosition)) continue;
    const std::string state = name.substr(0, name.size() - kPosition.size());
    if (branch_of(state) == kAllBranches) continue;
    table.add(row_of(file, state));
    ++states;
  }
  return fmt::format("state of LiteAttention: {} layers and branches\n\n{}", states, table.text());
}

}  // namespace saccade::cli

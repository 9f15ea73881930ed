#pragma once

#include <saccade/lite.h>
#include <saccade/trace.h>

#include <functional>
#include <memory>

namespace saccade::cli {

// What a method computes of one call.
struct MethodOutputs {
  TensorView out{};
  TensorView lse{};
};

// Attention over some tiles of the calls of a trace.
class Method {
 public:
  virtual ~Method() = default;

  // Writes the outputs of a call, those of each layer and branch in the order of their steps, and
  // returns the mask of the tiles that it computed, valid until the next call.
  virtual TileMaskView run(const Context& context,
                           const TraceCall& call,
                           const MethodOutputs& outputs) = 0;
};

struct TileSize {
  int block_q = 128;
  int block_k = 64;
};

TileGrid grid_of(const TraceCall& call, const TileSize& tile);

// LiteAttention with a state for each layer and branch.
std::unique_ptr<Method> make_lite(const lite::Schedule& schedule,
                                  const lite::Rule& rule,
                                  const TileSize& tile,
                                  std::optional<double> scale);

// The tiles that a baseline chooses for a call.
using TileChoice = std::function<TileMask(const Context& context, const TraceCall& call)>;

// Attention over the tiles of a choice; over all of them where the schedule says dense.
std::unique_ptr<Method> make_chosen(TileChoice choose,
                                    const lite::Schedule& schedule,
                                    const TileSize& tile,
                                    std::optional<double> scale);

}  // namespace saccade::cli

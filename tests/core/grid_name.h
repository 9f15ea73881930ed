#pragma once

#include <saccade/tile_grid.h>

#include <gtest/gtest.h>

#include <string>

namespace saccade {

// Names the instances of a test that is parametrised by its grid: "2x3_300q_4032k_tile128x64".
inline std::string grid_name(const testing::TestParamInfo<TileGrid>& instance) {
  const TileGrid& grid = instance.param;
  return std::to_string(grid.batch) + "x" + std::to_string(grid.heads) + "_" +
         std::to_string(grid.q_len) + "q_" + std::to_string(grid.k_len) + "k_tile" +
         std::to_string(grid.block_q) + "x" + std::to_string(grid.block_k);
}

}  // namespace saccade

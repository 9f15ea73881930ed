#include <saccade/error.h>
#include <saccade/lite_schedule.h>

#include <fmt/format.h>

namespace saccade::lite {
namespace {

void require_within(const std::vector<TokenRange>& ranges, const char* field, std::int64_t length) {
  if (ranges.empty() || ranges.back().end <= length) return;
  throw InvalidArgument(fmt::format("{}[{}] is [{}, {}), but there are only {} tokens", field,
                                    ranges.size() - 1, ranges.back().begin, ranges.back().end,
                                    length));
}

// Tiles that hold a token of a range.
std::vector<TileRange> tiles_touched(const std::vector<TokenRange>& ranges, int block) {
  std::vector<TileRange> tiles;
  for (const TokenRange& range : ranges) {
    const TileRange touched{range.begin / block, (range.end - 1) / block + 1};
    if (!tiles.empty() && touched.begin <= tiles.back().end) {
      tiles.back().end = touched.end;
    } else {
      tiles.push_back(touched);
    }
  }
  return tiles;
}

// Tiles all of whose tokens are in the ranges, of which adjacent ones count as one.
std::vector<TileRange> tiles_within(const std::vector<TokenRange>& ranges,
                                    int block,
                                    std::int64_t length) {
  std::vector<TileRange> tiles;
  for (std::size_t i = 0; i < ranges.size();) {
    const std::int64_t begin = ranges[i].begin;
    std::int64_t end = ranges[i].end;
    for (++i; i < ranges.size() && ranges[i].begin == end; ++i) end = ranges[i].end;
    const std::int64_t last = end == length ? (length + block - 1) / block : end / block;
    const TileRange within{(begin + block - 1) / block, last};
    if (within.begin < within.end) tiles.push_back(within);
  }
  return tiles;
}

}  // namespace

ScheduledTiles resolve_tiles(const Schedule& schedule, const TileGrid& grid) {
  validate(schedule);
  validate(grid);
  require_within(schedule.must_do_queries, "must_do_queries", grid.q_len);
  require_within(schedule.must_do_keys, "must_do_keys", grid.k_len);
  require_within(schedule.must_skip_queries, "must_skip_queries", grid.q_len);
  require_within(schedule.must_skip_keys, "must_skip_keys", grid.k_len);
  return {.must_do_queries = tiles_touched(schedule.must_do_queries, grid.block_q),
          .must_do_keys = tiles_touched(schedule.must_do_keys, grid.block_k),
          .must_skip_queries = tiles_within(schedule.must_skip_queries, grid.block_q, grid.q_len),
          .must_skip_keys = tiles_within(schedule.must_skip_keys, grid.block_k, grid.k_len)};
}

}  // namespace saccade::lite

"""The baselines as attentions of layers: tiles that are chosen before each call."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from .. import baselines
from ..baselines import VideoLayout
from ..errors import InvalidArgument
from ..functional import attention
from ..lite import StepStatistics
from ..lite_schedule import LiteSchedule
from ..tile_mask import TileGrid, TileMask

Choice = Callable[[Tensor, Tensor, Tensor, TileGrid, VideoLayout], TileMask]
"""The tiles of a call: from q, k and v [batch, length, heads, head_dim], its grid and its video."""

COMMON_OPTIONS = (
    *("schedule", "dense_layers", "block_q", "block_k"),
    *("protected_queries", "protected_keys"),
)
OPTIONS = {
    "random": ("sparsity", "seed"),
    "radial": ("decay", "window", "sink_frames"),
    "svg": ("share", "sink_frames", "sampled_tiles", "rows_per_tile", "seed"),
    "pooled": ("share", "mass"),
}
NEEDS_VIDEO = ("radial", "svg")

# Masks of a shape serve all layers.
_radial_tiles = lru_cache(maxsize=8)(baselines.radial_tiles)
_spatial_tiles = lru_cache(maxsize=8)(baselines.spatial_tiles)
_temporal_tiles = lru_cache(maxsize=8)(baselines.temporal_tiles)


class ChosenTiles:
    """saccade.attention over the tiles of a choice, and over all where the schedule is dense.

    ``statistics`` as of LiteAttention, with a threshold of -inf: nothing is marked.
    """

    def __init__(
        self, path: str, choice: Choice, schedule: LiteSchedule, block_q: int, block_k: int
    ) -> None:
        self.path = path
        self.choice = choice
        self.schedule = schedule
        self.block_q, self.block_k = block_q, block_k
        self.statistics: list[StepStatistics] = []

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        step: int,
        branch: str,
        sigma: float,
        video: VideoLayout,
    ) -> Tensor:
        batch, q_len, heads, _ = q.shape
        k_len = k.shape[1]
        grid = TileGrid(batch, heads, q_len, k_len, self.block_q, self.block_k)
        plan = self.schedule.plan(
            step, sigma=sigma, layer=self.path, heads=heads, length=max(q_len, k_len)
        )
        mask = None if plan.is_dense else self.choice(q, k, v, grid, video)
        out = attention(q, k, v, tiles=mask, layout="bshd")
        tiles = grid.q_tiles * grid.k_tiles
        active = torch.full((batch, heads), tiles) if mask is None else mask.count_by_head()
        self.statistics.append(StepStatistics(branch, step, mask is None, -math.inf, active, tiles))
        return out

    def reset(self) -> None:
        self.statistics.clear()


def make(
    method: str, path: str, number: int, *, schedule: LiteSchedule, options: dict[str, Any]
) -> ChosenTiles:
    """The attention of layer ``number``, at ``path``, with the ``options`` of saccade.enable.

    Raises InvalidArgument for options that are illegal whatever the problem.
    """
    protected = {
        "protected_queries": (*options.get("protected_queries", ()), *schedule.must_do_queries),
        "protected_keys": (*options.get("protected_keys", ()), *schedule.must_do_keys),
    }
    protected = {name: tuple(map(tuple, ranges)) for name, ranges in protected.items()}
    own = {name: options[name] for name in OPTIONS[method] if name in options}
    blocks = options.get("block_q", 128), options.get("block_k", 64)
    _try(_CHOICES[method](number, own, {}), *blocks)
    return ChosenTiles(path, _CHOICES[method](number, own, protected), schedule, *blocks)


def chosen_schedule(method: str, options: dict[str, Any]) -> LiteSchedule:
    """The schedule of a baseline: of it, only what is dense and what is protected has a meaning."""
    schedule = options.get("schedule") or LiteSchedule()
    if schedule.must_skip_queries or schedule.must_skip_keys:
        raise InvalidArgument(
            f"method {method!r} cannot leave out the tokens that the schedule's must_skip ranges "
            "name; give a schedule without them"
        )
    return schedule


def _random(layer: int, options: dict[str, Any], protected: dict[str, Any]) -> Choice:
    seed = options.get("seed", 0) + layer
    sparsity = options.get("sparsity", 0.5)

    @lru_cache(maxsize=1)
    def tiles(grid: TileGrid) -> TileMask:
        return baselines.random_tiles(grid, sparsity, seed=seed, **protected)

    return lambda _q, _k, _v, grid, _video: tiles(grid)


def _radial(_layer: int, options: dict[str, Any], protected: dict[str, Any]) -> Choice:
    return lambda _q, _k, _v, grid, video: _radial_tiles(grid, video, **options, **protected)


def _svg(_layer: int, options: dict[str, Any], protected: dict[str, Any]) -> Choice:
    of_masks = {name: options[name] for name in ("share", "sink_frames") if name in options}
    of_profile = {name: value for name, value in options.items() if name not in of_masks}

    def tiles(q: Tensor, k: Tensor, v: Tensor, grid: TileGrid, video: VideoLayout) -> TileMask:
        spatial = _spatial_tiles(grid, video, **of_masks, **protected)
        temporal = _temporal_tiles(grid, video, **of_masks, **protected)
        return baselines.svg_tiles(
            q, k, v, spatial=spatial, temporal=temporal, layout="bshd", **of_profile
        )

    return tiles


def _pooled(_layer: int, options: dict[str, Any], protected: dict[str, Any]) -> Choice:
    def tiles(q: Tensor, k: Tensor, _v: Tensor, grid: TileGrid, _video: VideoLayout) -> TileMask:
        blocks = {"block_q": grid.block_q, "block_k": grid.block_k}
        return baselines.pooled_tiles(q, k, layout="bshd", **blocks, **options, **protected)

    return tiles


def _try(choice: Choice, block_q: int, block_k: int) -> None:
    """Refuses bad options on the smallest problem, before any model is touched."""
    x = torch.zeros(1, 64, 1, 16)
    grid = TileGrid(1, 1, 64, 64, block_q, block_k)
    choice(x, x, x, grid, VideoLayout(frames=1, height=8, width=8))


_CHOICES = {"random": _random, "radial": _radial, "svg": _svg, "pooled": _pooled}

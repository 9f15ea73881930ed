"""As many tiles as LiteAttention kept, chosen at random: what its choice is worth."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

import saccade
from saccade.lite import StepStatistics

from ..report import Measurement

KeptTiles = dict[tuple[str, str], Tensor]
"""Tiles to compute: int64 [heads, steps] for each (layer path, branch)."""


def kept_tiles(measurement: Measurement) -> KeptTiles:
    """The tiles that a generation computed."""
    return {
        (path, branch): torch.tensor(heads)
        for branch, layers in zip(measurement.branches, measurement.active, strict=True)
        for path, heads in zip(measurement.layers, layers, strict=True)
    }


class RandomTiles:
    """Attention over a random part of the tiles: ``saccade.enable(x, RandomTiles(...))``.

    At each step, every head of a layer and branch computes as many tiles as ``kept`` says, at
    least one of them in each row, as in LiteAttention: ``kept`` must leave that many. Where the
    numbers fall from step to step, the tiles are chosen among those of the step before.
    """

    def __init__(self, kept: KeptTiles, *, block_q: int, block_k: int, seed: int) -> None:
        self.kept = kept
        self.block_q, self.block_k = block_q, block_k
        self.seed = seed

    def __call__(self, path: str) -> RandomLayer:
        return RandomLayer(self, path)


class RandomLayer:
    """The attention of the layer at ``path``: (q, k, v, *, step, branch), tensors BSHD."""

    def __init__(self, method: RandomTiles, path: str) -> None:
        self._method = method
        self._path = path
        self._ranks: dict[str, Tensor] = {}
        self.statistics: list[StepStatistics] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, step: int, branch: str) -> Tensor:
        batch, q_len, heads, _ = q.shape
        blocks = self._method.block_q, self._method.block_k
        grid = saccade.TileGrid(batch, heads, q_len, k.shape[1], *blocks)
        if branch not in self._ranks:
            self._ranks[branch] = self._draw_ranks(grid, branch)
        count = self._method.kept[self._path, branch][:, step]
        active = self._ranks[branch] < count[:, None, None]
        mask = saccade.TileMask.from_dense(active.to(q.device), q_len, k.shape[1], *blocks)
        out = saccade.attention(q, k, v, tiles=mask, layout="bshd")
        tiles = grid.q_tiles * grid.k_tiles
        counts = active.sum((2, 3))
        self.statistics.append(
            StepStatistics(branch, step, bool((counts == tiles).all()), -math.inf, counts, tiles)
        )
        return out

    def reset(self) -> None:
        self.statistics.clear()

    def _draw_ranks(self, grid: saccade.TileGrid, branch: str) -> Tensor:
        """A random order of the tiles of each head, [batch, heads, q_tiles, k_tiles].

        The tiles whose rank is below a falling count are nested, and the dropped ones random. One
        tile of each row comes before all others, so that no row is empty.
        """
        name = f"{self._method.seed} {self._path} {branch}".encode()
        seed = int.from_bytes(hashlib.sha256(name).digest()[:8], "big", signed=True)
        generator = torch.Generator().manual_seed(seed)
        order = torch.rand(grid.shape, generator=generator)
        first = torch.randint(grid.k_tiles, (*grid.shape[:3], 1), generator=generator)
        order.scatter_(3, first, order.gather(3, first) - 1)
        return order.flatten(2).argsort(-1).argsort(-1).view(grid.shape)

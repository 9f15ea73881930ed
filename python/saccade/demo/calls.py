"""The attention calls of one generation, ordered by branch, layer, head and step."""

from __future__ import annotations

from dataclasses import dataclass

import saccade

from ..errors import Unsupported
from ..report.measurement import Counts


@dataclass(frozen=True)
class CallTable:
    """``active[branch][layer][head][step]`` of ``tiles`` tiles were computed, in ``seconds``."""

    branches: list[str]
    layers: list[str]
    active: Counts
    tiles: int
    seconds: float


def table_of(summary: saccade.Summary) -> CallTable:
    """Raises Unsupported where the device does not tell how long attention took."""
    if summary.seconds is None:
        raise Unsupported("attention is timed on the CPU only; use --device cpu")
    branches = list(dict.fromkeys(call.branch for call in summary.calls))
    return CallTable(
        branches=branches,
        layers=[layer.path for layer in summary.layers],
        active=[[_by_head(layer.calls, branch) for layer in summary.layers] for branch in branches],
        tiles=summary.calls[0].tiles,
        seconds=summary.seconds,
    )


def _by_head(calls: tuple, branch: str) -> list[list[int]]:
    """Counts [head][step] of one layer and branch, for a batch of one clip."""
    steps = sorted((c for c in calls if c.branch == branch), key=lambda c: c.step)
    return [list(head) for head in zip(*(c.active[0].tolist() for c in steps), strict=True)]

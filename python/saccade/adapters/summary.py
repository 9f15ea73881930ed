"""What the attention layers of a model have computed, as numbers and as a table."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..lite_schedule import ScheduleTable
from ..space_time import Box
from .layer import Attention, AttentionCall, sparsity_of

_HEADER = ("layer", "branch", "calls", "sparsity", "seconds")


@dataclass(frozen=True)
class LayerSummary:
    """One self-attention layer.

    ``path``: from what was given to saccade.enable. ``attention``: the object that computes it,
    a LiteAttention for the sparse layers of method "lite", whose ``mask(branch)`` has the tiles of
    the next step. ``calls``: of the current or last generation, in their order. ``token_order``:
    "frames", or the box by which the tokens of the last call were numbered; before any call as it
    was given to saccade.enable.
    """

    path: str
    attention: Attention
    calls: tuple[AttentionCall, ...]
    token_order: str | Box


@dataclass(frozen=True)
class Summary:
    """The calls of one generation, by layer; ``str()`` makes a table of it, by layer and branch.

    ``tables``: what the schedule said about the steps so far, for each transformer that has one and
    was called.
    """

    layers: tuple[LayerSummary, ...]
    tables: tuple[ScheduleTable, ...] = ()

    @property
    def calls(self) -> tuple[AttentionCall, ...]:
        """The calls of all layers, layer by layer."""
        return tuple(call for layer in self.layers for call in layer.calls)

    @property
    def sparsity(self) -> float | None:
        """Skipped share of all tiles of all calls, 0 to 1; None before any call."""
        return sparsity_of(list(self.calls))

    @property
    def seconds(self) -> float | None:
        """Wall time of all attention calls; None before any call and if one was not measured."""
        return _seconds_of(list(self.calls))

    @property
    def state_bytes(self) -> int:
        """Memory of what all layers keep between steps."""
        return sum(getattr(layer.attention, "state_bytes", 0) for layer in self.layers)

    def to_json(self) -> str:
        """Every call: layer, branch, step, seconds, and for each head the tiles and masses.

        An object {"state_bytes": int, "calls": [...]}; a call has the fields of AttentionCall,
        tensors as lists [batch][heads], thresholds that are no JSON numbers as strings.
        """
        calls = [{name: _plain(x) for name, x in vars(call).items()} for call in self.calls]
        return json.dumps({"state_bytes": self.state_bytes, "calls": calls})

    def __str__(self) -> str:
        rows = [row for layer in self.layers for row in _rows_of(layer)]
        table = [_HEADER, *rows, _row("total", "", list(self.calls))]
        widths = [max(len(row[column]) for row in table) for column in range(len(_HEADER))]
        lines = [_line(row, widths) for row in table]
        lines += dict.fromkeys(
            "tokens in boxes of {} x {} x {}".format(*layer.token_order)
            for layer in self.layers
            if isinstance(layer.token_order, tuple)
        )
        if not self.calls:
            lines.append("no calls yet: run the model first")
        return "\n\n".join(["\n".join(lines), *map(str, self.tables)])


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Tensor):
        return value.tolist()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _rows_of(layer: LayerSummary) -> list[tuple[str, ...]]:
    branches = dict.fromkeys(call.branch for call in layer.calls)
    if not branches:
        return [_row(layer.path, "-", [])]
    return [
        _row(layer.path, branch, [call for call in layer.calls if call.branch == branch])
        for branch in branches
    ]


def _row(path: str, branch: str, calls: list[AttentionCall]) -> tuple[str, ...]:
    sparsity, seconds = sparsity_of(calls), _seconds_of(calls)
    return (
        path,
        branch,
        str(len(calls)),
        "-" if sparsity is None else f"{sparsity:.1%}",
        "-" if seconds is None else f"{seconds:.3f}",
    )


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    """Names to the left, numbers to the right."""
    cells = [
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _seconds_of(calls: list[AttentionCall]) -> float | None:
    seconds = [call.seconds for call in calls if call.seconds is not None]
    return sum(seconds) if calls and len(seconds) == len(calls) else None

"""What the attention layers of a model have computed, as numbers and as a table."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import Unsupported
from ..lite_schedule import ScheduleTable
from ..sla_module import SparseLinearAttention
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

    @property
    def state_bytes(self) -> int:
        """Memory of what the layer keeps between steps."""
        return getattr(self.attention, "state_bytes", 0)


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
        return sum(layer.state_bytes for layer in self.layers)

    @property
    def branches(self) -> tuple[str, ...]:
        """The guidance branches, in the order of their first calls."""
        return tuple(dict.fromkeys(call.branch for call in self.calls))

    def to_tensors(self) -> dict[str, Tensor]:
        """The numbers of all calls as float64 tensors; NaN where there is no call or no number.

        "sparsity", "active" (tiles), "kept_mass" and "dropped_mass": [layers, branches, steps,
        heads], means over the batch. "seconds": [layers, branches, steps]. "state_bytes": int64
        [layers]. The order is that of ``layers`` and ``branches``.
        """
        steps = 1 + max((call.step for call in self.calls), default=-1)
        shape = len(self.layers), len(self.branches), steps
        heads = max(
            (call.active.shape[1] for call in self.calls if call.active is not None), default=0
        )
        by_head = ("sparsity", "active", "kept_mass", "dropped_mass")
        tensors = {
            name: torch.full((*shape, heads), math.nan, dtype=torch.float64) for name in by_head
        }
        tensors["seconds"] = torch.full(shape, math.nan, dtype=torch.float64)
        tensors["state_bytes"] = torch.tensor([layer.state_bytes for layer in self.layers])
        for i, layer in enumerate(self.layers):
            for call in layer.calls:
                at = i, self.branches.index(call.branch), call.step
                for name, value in _numbers_of(call).items():
                    tensors[name][at] = value
        return tensors

    def to_json(self) -> str:
        """Every call: layer, branch, step, seconds, and for each head the tiles and masses.

        An object {"sparsity": float, "seconds": float, "state_bytes": int, "layers": [{"path",
        "token_order", "state_bytes"}], "calls": [...]}; a call has the fields of AttentionCall,
        tensors as lists [batch][heads], thresholds that are no JSON numbers as strings.
        """
        totals = {name: getattr(self, name) for name in ("sparsity", "seconds", "state_bytes")}
        of_layer = ("path", "token_order", "state_bytes")
        layers = [{name: getattr(layer, name) for name in of_layer} for layer in self.layers]
        calls = [{name: _plain(x) for name, x in vars(call).items()} for call in self.calls]
        return json.dumps({**totals, "layers": layers, "calls": calls})

    def to_html(self, path: str | Path, title: str = "Attention of one generation") -> None:
        """Writes a page that needs nothing else to open; it appears when it is complete.

        Tables by layer and branch, and heatmaps of tiles, time and mass by layer and by head over
        the steps. Raises FileError, and Unsupported without the packages of
        ``pip install saccade[demo]``.
        """
        try:
            from ..report.summary_page import write_summary_page
        except ImportError as error:
            raise Unsupported(
                f"pages need the package {error.name}; `pip install saccade[demo]` installs it"
            ) from None
        write_summary_page(self, Path(path), title)

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
        short = sum(call.is_dense for layer in self.layers for call in _calls_of_sla(layer))
        if short:
            lines.append(f"{short} calls of SLA were dense: fewer tokens than min_length")
        if not self.calls:
            lines.append("no calls yet: run the model first")
        return "\n\n".join(["\n".join(lines), *map(str, self.tables)])


def _calls_of_sla(layer: LayerSummary) -> tuple[AttentionCall, ...]:
    return layer.calls if isinstance(layer.attention, SparseLinearAttention) else ()


def _numbers_of(call: AttentionCall) -> dict[str, Any]:
    """Those that are known, by head the means over the batch."""
    numbers: dict[str, Any] = {} if call.seconds is None else {"seconds": call.seconds}
    by_head = {"kept_mass": call.kept_mass, "dropped_mass": call.dropped_mass}
    if call.active is not None and call.tiles is not None:
        by_head |= {"active": call.active, "sparsity": 1 - call.active / call.tiles}
    means = {name: x.double().mean(0) for name, x in by_head.items() if x is not None}
    return numbers | means


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

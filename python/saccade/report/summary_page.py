"""The summary of one generation as a page: what its layers computed, by step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..files import write_atomically
from .template import render_template

if TYPE_CHECKING:
    from ..adapters.summary import Summary

_COLUMNS = ("layer", "branch", "calls", "skipped %", "ms", "mass lost %", "estimate %")
_DEFINITIONS = (
    ("skipped", "share of the tiles that were not computed"),
    ("time", "wall time of the attention calls, with whatever chooses their tiles; not measured on "
     "other devices than the CPU"),
    ("mass lost", "share of the softmax mass of dense attention that the computed tiles do not "
     "hold, the mean over queries; measured with measures_mass=True"),
    ("estimate", "of the mass that the tiles dropped so far would have, from those that a stripe "
     "computed again, with reprobe_period; an upper bound, which may be far off"),
    ("state", "what the layers keep between steps"),
)  # fmt: skip


def write_summary_page(summary: Summary, path: Path, title: str) -> None:
    """Writes the page, which needs nothing else to open. Raises FileError."""
    tensors = summary.to_tensors()
    page = render_template(
        "summary.html",
        scripts=("shared.js", "summary.js"),
        data={
            "layers": [layer.path for layer in summary.layers],
            "branches": summary.branches,
            "quantities": _quantities(tensors),
        },
        title=title,
        has_calls=bool(summary.calls),
        cards=_cards(summary),
        columns=_COLUMNS,
        rows=_rows(summary, tensors),
        tables=list(map(str, summary.tables)),
        definitions=_DEFINITIONS,
    )
    write_atomically(path, page)


def _quantities(tensors: dict[str, Tensor]) -> list[dict[str, Any]]:
    """What the heatmaps can show: of each quantity that has a number."""
    quantities = [
        _quantity("tiles skipped", "skipped", " %", 100 * tensors["sparsity"], top=100),
        _quantity("time", "", " ms", 1000 * tensors["seconds"][..., None], has_heads=False),
        _quantity("mass lost", "lost", " %", 100 * (1 - tensors["kept_mass"])),
        _quantity("estimate of the mass dropped", "dropped", " %", 100 * tensors["dropped_mass"]),
    ]
    return [quantity for quantity in quantities if quantity is not None]


def _quantity(
    name: str,
    meaning: str,
    unit: str,
    values: Tensor,
    *,
    top: float | None = None,
    has_heads: bool = True,
) -> dict[str, Any] | None:
    """``values``: [layers, branches, steps, heads]; None without a number. ``top`` ends the scale,
    by default at the largest value."""
    known = values[~values.isnan()]
    if known.numel() == 0:
        return None
    values = values.transpose(0, 1)
    return {
        "name": name,
        "meaning": meaning,
        "unit": unit,
        "top": top or float(known.max()) or 1.0,
        "by_layer": _without_nan(values.mean(-1).tolist()),
        "by_head": _without_nan(values.transpose(2, 3).tolist()) if has_heads else None,
    }


def _cards(summary: Summary) -> list[tuple[str, str, str]]:
    """The headline numbers: value, what it is, and a note."""
    steps = 1 + max((call.step for call in summary.calls), default=-1)
    return [
        (_percent(summary.sparsity), "of all tiles skipped", "over the whole generation"),
        (_text(summary.seconds, ".2f", " s"), "in attention", f"{len(summary.calls)} calls"),
        (_bytes(summary.state_bytes), "of state", f"{len(summary.layers)} layers"),
        (str(steps), "steps", f"branches: {', '.join(summary.branches) or 'none'}"),
    ]


def _rows(summary: Summary, tensors: dict[str, Tensor]) -> list[tuple[str, ...]]:
    return [
        (
            layer.path,
            branch,
            str(sum(call.branch == branch for call in layer.calls)),
            _percent(_mean(tensors["sparsity"][i, j]), unit=""),
            _text(_sum(tensors["seconds"][i, j]), ".1f", factor=1000),
            _text(_mean(1 - tensors["kept_mass"][i, j]), ".3f", factor=100),
            _text(_mean(tensors["dropped_mass"][i, j]), ".3f", factor=100),
        )
        for i, layer in enumerate(summary.layers)
        for j, branch in enumerate(summary.branches)
    ]


def _mean(values: Tensor) -> float | None:
    return None if values.isnan().all() else float(values.nanmean())


def _sum(values: Tensor) -> float | None:
    return None if values.isnan().all() else float(values.nansum())


def _percent(value: float | None, unit: str = " %") -> str:
    return _text(value, ".1f", unit, factor=100)


def _text(value: float | None, style: str, unit: str = "", factor: float = 1) -> str:
    return "–" if value is None else format(factor * value, style) + unit


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def _without_nan(values: Any) -> Any:
    """Nested lists with null, which JSON has, in place of NaN."""
    if isinstance(values, list):
        return [_without_nan(value) for value in values]
    return None if math.isnan(values) else values

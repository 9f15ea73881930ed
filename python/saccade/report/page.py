"""Puts the parts of a report on one page, and its numbers beside it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ..files import write_atomically
from . import figures
from .contents import Contents
from .measurement import LITE_METHODS, Measurement, Row, featured, summarise
from .sprites import mask_data, sprite_of
from .table import COLUMNS, format_interval, table_cells
from .template import render_template


def write_report(contents: Contents, folder: Path) -> Path:
    """Writes ``folder``/report.html, which needs nothing else to open, and report.json.

    Returns the path of the page. Each file is complete or not there. Raises ValueError without a
    sparse measurement that has its dense one.
    """
    rows = summarise(contents.measurements)
    if featured(rows) is None:
        raise ValueError("a report needs a LiteAttention clip and the dense clip of the same noise")
    numbers = {
        "title": contents.title,
        "facts": dict(contents.facts),
        "summary": [asdict(row) for row in rows],
        "measurements": [asdict(m) | {"sparsity": m.sparsity} for m in contents.measurements],
    }
    text = json.dumps(_finite(numbers), indent=1, allow_nan=False)
    write_atomically(folder / "report.json", text + "\n")
    page = folder / "report.html"
    write_atomically(page, render(contents, rows))
    return page


def render(contents: Contents, rows: Sequence[Row]) -> str:
    """The page as HTML text."""
    return render_template(
        "report.html",
        scripts=("shared.js", "report.js"),
        data=_page_data(contents, rows),
        contents=contents,
        headline=_headline(rows),
        cards=_cards(rows),
        clips=_clip_rows(contents),
        columns=COLUMNS,
        cells=table_cells(rows),
        figures=[name for name, _ in _figures(contents, rows)],
    )


def _page_data(contents: Contents, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "figures": {name: figure.to_plotly_json() for name, figure in _figures(contents, rows)},
        "featured": featured(rows).label,
        "heatmaps": _heatmaps(contents.measurements),
        "masks": [mask_data(history) for history in contents.masks],
    }


def _figures(contents: Contents, rows: Sequence[Row]) -> list[tuple[str, go.Figure]]:
    measurements = contents.measurements
    chosen = [
        ("steps", figures.sparsity_by_step(measurements)),
        ("quality", figures.quality_against_speed([r for r in rows if r.method in LITE_METHODS])),
        ("times", figures.time_against_ideal(measurements)),
    ]
    if any(row.method == "random" for row in rows):
        shortest = min(row.frames for row in rows)
        compared = [row for row in rows if row.frames == shortest]
        chosen.append(("random", figures.quality_against_sparsity(compared)))
    if len({row.frames for row in rows}) > 1:
        chosen.append(("lengths", figures.speed_by_length(rows)))
    if contents.training:
        chosen.append(("training", figures.training_curve(contents.training)))
    return chosen


def _headline(rows: Sequence[Row]) -> str:
    row = featured(rows)
    if row.psnr.mean >= figures.GOOD_PSNR:
        why = f"the fastest one whose clips stay at {figures.GOOD_PSNR:g} dB or closer"
    else:
        why = f"none reached {figures.GOOD_PSNR:g} dB, and this one is the closest"
    how = "with the calibrated schedule"
    how = how if row.threshold is None else f"at threshold {row.threshold:g}"
    clips = "one clip" if row.clips == 1 else f"the mean of {row.clips} clips"
    return f"LiteAttention {how}, {clips}: {why}."


def _cards(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """The headline numbers: value, what it is, and what it is held to."""
    row = featured(rows)
    dense = next(r for r in rows if r.method == "dense" and r.frames == row.frames)
    cards = [
        (f"{row.speed_up.mean:.2f}×", "attention speed-up",
         f"{row.attention_seconds.mean:.1f} s, dense {dense.attention_seconds.mean:.1f} s"),
        (f"{row.sparsity.mean:.0%}", "of all tiles skipped", "over the whole generation"),
        (f"{row.psnr.mean:.1f} dB", "PSNR against dense",
         f"SSIM {format_interval(row.ssim, '.3f')}"),
        (f"{row.over_ideal.mean:.2f}×", "of the ideal time",
         f"(1 − sparsity) × dense; bound {figures.BOUND:.2f}×"),
    ]  # fmt: skip
    random = [r for r in rows if r.method == "random" and r.threshold == row.threshold]
    if random:
        gain = row.psnr.mean - random[0].psnr.mean
        cards.append((f"{gain:+.1f} dB", "against random tiles",
                      f"of the same number, {random[0].psnr.mean:.1f} dB"))  # fmt: skip
    if row.recognised is not None:
        cards.append((f"{row.recognised} of {row.clips}", "recognised as asked",
                      f"dense {dense.recognised} of {dense.clips}"))  # fmt: skip
    return cards


def _clip_rows(contents: Contents) -> list[dict[str, Any]]:
    prompts: dict[str, list[dict[str, Any]]] = {}
    for clip in contents.clips:
        shown = {"label": clip.label, "caption": clip.caption, "sprite": sprite_of(clip)}
        prompts.setdefault(clip.prompt, []).append(shown)
    return [{"prompt": prompt, "clips": clips} for prompt, clips in prompts.items()]


def _heatmaps(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """For each threshold and schedule, the percentage skipped [branch][layer][head][step].

    The mean over clips.
    """
    shortest = min(m.frames for m in measurements)
    groups: dict[str, list[Measurement]] = {}
    for measurement in measurements:
        if measurement.method in LITE_METHODS and measurement.frames == shortest:
            groups.setdefault(measurement.label, []).append(measurement)
    return [
        {
            "label": label,
            "branches": group[0].branches,
            "layers": group[0].layers,
            "skipped": _mean_skipped([m.active for m in group], group[0].tiles),
        }
        for label, group in groups.items()
    ]


def _mean_skipped(counts: Sequence[Any], tiles: int) -> Any:
    """Nested lists of counts, averaged element by element and turned into percent skipped."""
    if isinstance(counts[0], list):
        return [_mean_skipped(parts, tiles) for parts in zip(*counts, strict=True)]
    return round(100 * (1 - statistics.fmean(counts) / tiles), 2)


def _finite(value: Any) -> Any:
    """Nested lists and dicts with a threshold of -inf as text, for which JSON has no number."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value

"""The summary as text, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .measurement import Interval, Row


@dataclass(frozen=True)
class Column:
    """``meaning`` is the definition that the report prints."""

    title: str
    meaning: str
    text: Callable[[Row], str]


def format_interval(value: Interval | None, style: str) -> str:
    """The mean, with half the width of its confidence interval where there is one."""
    if value is None:
        return "–"
    text = format(value.mean, style)
    if value.high is not None:
        text += f" ± {format(value.high - value.mean, style.replace('+', ''))}"
    return text


def _percent(value: Interval) -> Interval:
    ends = (None if end is None else 100 * end for end in (value.low, value.high))
    return Interval(100 * value.mean, *ends)


COLUMNS = (
    Column("method", "dense; lite is LiteAttention with its threshold in log2 units, calibrated "
           "with what saccade.calibrate found for each layer, head and step; random is "
           "tiles dropped at random, as many as LiteAttention at this threshold skipped at each "
           "step, layer, head and branch", lambda r: r.label),
    Column("tokens", "of one clip in self-attention", lambda r: str(r.tokens)),
    Column("attn s", "attention seconds: those in all self-attention calls of one generation",
           lambda r: format_interval(r.attention_seconds, ".2f")),
    Column("speed-up ×", "dense attention seconds over these, clip by clip",
           lambda r: format_interval(r.speed_up, ".2f")),
    Column("ideal ×", "attention seconds over (1 − sparsity) × dense attention seconds: 1 if a "
           "skipped tile costs nothing", lambda r: format_interval(r.over_ideal, ".2f")),
    Column("total s", "seconds of the whole generation, measurement included",
           lambda r: format_interval(r.total_seconds, ".1f")),
    Column("skipped %", "sparsity: share of tiles not computed, over all steps (dense ones too), "
           "branches, layers and heads", lambda r: format_interval(_percent(r.sparsity), ".1f")),
    Column("PSNR dB", "peak signal-to-noise ratio against the dense clip of the same noise, mean "
           "over frames, at most 100", lambda r: format_interval(r.psnr, ".1f")),
    Column("SSIM", "structural similarity to the dense clip, mean over frames",
           lambda r: format_interval(r.ssim, ".3f")),
    Column("flicker %", "mean absolute change from frame to frame, minus that of the dense clip, "
           "in percent of full brightness",
           lambda r: format_interval(_percent(r.flicker_change), "+.2f")),
    Column("class", "clips whose object a classifier saw as the kind asked for",
           lambda r: "–" if r.recognised is None else f"{r.recognised}/{r.clips}"),
)  # fmt: skip


def table_cells(rows: Sequence[Row]) -> list[list[str]]:
    """One list of texts for each row, in the order of COLUMNS."""
    return [[column.text(row) for column in COLUMNS] for row in rows]

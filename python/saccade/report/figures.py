"""The curves of a report, as plotly figures without colours of page or text."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from .measurement import LITE_METHODS, Interval, Measurement, Row

BOUND = 1.10  # attention time over the ideal one that still counts as proportional
GOOD_PSNR = 30.0
_METHOD_COLOUR = {
    "dense": "#8a8f98",
    "lite": "#5b6ee1",
    "calibrated": "#2a9d8f",
    "random": "#e0803a",
}
_SERIES = ("#2a9d8f", "#5b6ee1", "#c2549d", "#e0803a", "#b59a1d", "#4f9bd9", "#8a6bd1", "#6b8f3a")


def sparsity_by_step(measurements: Sequence[Measurement]) -> go.Figure:
    """One line for each threshold and schedule: the mean over clips."""
    figure = _figure("denoising step", "tiles skipped, %")
    groups: dict[str, list[Measurement]] = {}
    for measurement in _shortest(measurements):
        if measurement.method in LITE_METHODS:
            groups.setdefault(measurement.label, []).append(measurement)
    for (label, group), colour in zip(groups.items(), _cycle(len(groups)), strict=True):
        clips = (m.sparsity_by_step() for m in group)
        share = [100 * statistics.fmean(values) for values in zip(*clips, strict=True)]
        figure.add_scatter(
            x=list(range(1, len(share) + 1)), y=share, name=label, mode="lines+markers",
            line={"color": colour, "width": 2.5}, marker={"size": 6},
            hovertemplate="step %{x}: %{y:.1f} % skipped",
        )  # fmt: skip
    figure.update_yaxes(range=[0, 100])
    figure.update_xaxes(dtick=1 if len(share) <= 16 else None)
    return figure


def quality_against_speed(rows: Sequence[Row]) -> go.Figure:
    """PSNR over speed-up, one point for each method and clip length."""
    figure = _figure("attention speed-up against dense", "PSNR against dense, dB")
    _add_points(figure, rows, lambda row: row.speed_up, lambda row: row.psnr, "%{x:.2f}×")
    figure.add_hline(y=GOOD_PSNR, line={"dash": "dot", "width": 1, "color": "#8a8f98"})
    figure.update_xaxes(ticksuffix="×")
    return figure


def quality_against_sparsity(rows: Sequence[Row]) -> go.Figure:
    """PSNR over sparsity: LiteAttention's choice of tiles and a random one."""
    figure = _figure("tiles skipped, %", "PSNR against dense, dB")
    _add_points(figure, rows, _skipped_percent, lambda row: row.psnr, "%{x:.1f} %")
    figure.add_hline(y=GOOD_PSNR, line={"dash": "dot", "width": 1, "color": "#8a8f98"})
    return figure


def speed_by_length(rows: Sequence[Row]) -> go.Figure:
    """Speed-up over sparsity, one line for each clip length."""
    figure = _figure("tiles skipped, %", "attention speed-up against dense")
    lengths = sorted({(row.tokens, row.frames) for row in rows})
    for (tokens, frames), colour in zip(lengths, _cycle(len(lengths)), strict=True):
        line = [row for row in rows if row.frames == frames and row.method in LITE_METHODS]
        line.sort(key=lambda row: row.sparsity.mean)
        figure.add_scatter(
            x=[100 * row.sparsity.mean for row in line], y=[row.speed_up.mean for row in line],
            error_y=_bars([row.speed_up for row in line]), mode="lines+markers",
            name=f"{frames} frames, {tokens:,} tokens", line={"color": colour, "width": 2.5},
            marker={"size": 7}, text=[row.label for row in line],
            hovertemplate="%{text}: %{y:.2f}× at %{x:.1f} %",
        )  # fmt: skip
    figure.update_yaxes(ticksuffix="×")
    return figure


def time_against_ideal(measurements: Sequence[Measurement]) -> go.Figure:
    """Attention time as a share of dense, with the line and the bound it is held to."""
    figure = _figure("tiles skipped, %", "attention time, % of dense")
    ends = [0, 100]
    figure.add_scatter(x=ends, y=[100, 0], mode="lines", name="(1 − sparsity) × dense",
                       line={"color": "#8a8f98", "width": 1.5}, hoverinfo="skip")  # fmt: skip
    figure.add_scatter(x=ends, y=[100 * BOUND, 0], mode="lines", name=f"{BOUND:.2f} × that",
                       line={"color": "#8a8f98", "width": 1.5, "dash": "dot"}, hoverinfo="skip",
                       fill="tonexty", fillcolor="rgba(138,143,152,0.15)")  # fmt: skip
    dense = {m.clip_key: m.attention_seconds for m in measurements if m.method == "dense"}
    lite = [m for m in measurements if m.method in LITE_METHODS and m.clip_key in dense]
    figure.add_scatter(
        x=[100 * m.sparsity for m in lite],
        y=[100 * m.attention_seconds / dense[m.clip_key] for m in lite],
        text=[f"{m.label}, {m.prompt}, seed {m.seed}, {m.frames} frames" for m in lite],
        mode="markers", name="one clip", marker={"size": 9, "color": _METHOD_COLOUR["lite"]},
        hovertemplate="%{text}<br>%{y:.1f} % of dense at %{x:.1f} % skipped",
    )  # fmt: skip
    figure.update_yaxes(range=[0, 118])
    figure.update_xaxes(range=[0, 100])
    return figure


def training_curve(history: Sequence[dict[str, Any]]) -> go.Figure:
    """Held-out loss of the model over its training steps."""
    figure = _figure("training step", "held-out loss")
    figure.add_scatter(
        x=[entry["step"] for entry in history], y=[entry["held_out_loss"] for entry in history],
        mode="lines+markers", line={"color": _SERIES[0], "width": 2.5}, marker={"size": 5},
        name="held-out loss", hovertemplate="step %{x}: %{y:.4f}",
    )  # fmt: skip
    figure.update_yaxes(type="log", dtick="D2")
    figure.update_layout(showlegend=False)
    return figure


def _figure(x_title: str, y_title: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="none", margin={"l": 60, "r": 18, "t": 12, "b": 48}, height=380,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, showlegend=True,
        hoverlabel={"namelength": -1},
    )  # fmt: skip
    figure.update_xaxes(title_text=x_title, zeroline=False)
    figure.update_yaxes(title_text=y_title, title_standoff=10, automargin=True, zeroline=False)
    return figure


def _add_points(
    figure: go.Figure,
    rows: Sequence[Row],
    x: Callable[[Row], Interval],
    y: Callable[[Row], Interval],
    x_format: str,
) -> None:
    """A line through the points of each method and clip length that has a quality."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        if row.psnr is not None:
            groups.setdefault((row.method, row.frames), []).append(row)
    has_lengths = len({frames for _, frames in groups}) > 1
    for (method, frames), group in groups.items():
        group.sort(key=lambda row: x(row).mean)
        is_shortest = frames == min(row.frames for row in rows)
        is_labelled = method == "lite" and is_shortest
        figure.add_scatter(
            x=[x(row).mean for row in group], y=[y(row).mean for row in group],
            error_x=_bars([x(row) for row in group]), error_y=_bars([y(row) for row in group]),
            mode="lines+markers+text", name=f"{method}, {frames} frames" if has_lengths else method,
            line={"color": _METHOD_COLOUR[method], "width": 1.5,
                  "dash": "solid" if is_shortest else "dot"},
            marker={"size": 9},
            text=[f"{row.threshold:g}" if is_labelled else "" for row in group],
            textposition="top right", cliponaxis=False, customdata=[row.label for row in group],
            hovertemplate="%{customdata}: %{y:.1f} dB at " + x_format,
        )  # fmt: skip


def _bars(values: Sequence[Interval]) -> dict[str, Any] | None:
    if any(value.high is None for value in values):
        return None
    return {
        "type": "data",
        "array": [value.high - value.mean for value in values],
        "thickness": 1,
        "width": 3,
    }


def _skipped_percent(row: Row) -> Interval:
    ends = (None if end is None else 100 * end for end in (row.sparsity.low, row.sparsity.high))
    return Interval(100 * row.sparsity.mean, *ends)


def _shortest(measurements: Sequence[Measurement]) -> list[Measurement]:
    shortest = min(m.frames for m in measurements)
    return [m for m in measurements if m.frames == shortest]


def _cycle(count: int) -> list[str]:
    return [_SERIES[i % len(_SERIES)] for i in range(count)]

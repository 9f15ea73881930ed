"""What is known of one generation: the input of every table and figure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Counts = list[list[list[list[int]]]]


LITE_METHODS = ("lite", "calibrated")  # LiteAttention at one threshold, or with a schedule


@dataclass(frozen=True)
class Measurement:
    """One clip drawn with one method.

    ``active``: computed tiles of each branch, layer, head and step, in this order, out of ``tiles``
    for each head. ``attention_seconds`` is the sum over all self-attention calls, ``total_seconds``
    the whole generation. ``psnr`` (dB) and ``ssim`` are against the dense clip of the same prompt
    and seed, None for the dense clip itself. ``flicker`` is the mean absolute change from frame to
    frame, of values in 0 to 1. ``wanted`` and ``recognised``: the kind of object asked for and the
    one that a classifier saw; None where there is no classifier.
    """

    method: str
    threshold: float | None
    prompt: str
    seed: int
    frames: int
    tokens: int
    steps: int
    attention_seconds: float
    total_seconds: float
    branches: list[str]
    layers: list[str]
    active: Counts
    tiles: int
    psnr: float | None
    ssim: float | None
    flicker: float
    wanted: str | None = None
    recognised: str | None = None

    @property
    def label(self) -> str:
        """How tables and figures call the method."""
        return self.method if self.threshold is None else f"{self.method} {self.threshold:g}"

    @property
    def clip_key(self) -> tuple[str, int, int]:
        """Equal for generations that started from the same noise and prompt."""
        return (self.prompt, self.seed, self.frames)

    @property
    def sparsity(self) -> float:
        """Skipped share of the tiles of all calls, 0 to 1."""
        return statistics.fmean(self.sparsity_by_step())

    def sparsity_by_step(self) -> list[float]:
        """Skipped share of the tiles of each step, over branches, layers and heads."""
        heads = [head for branch in self.active for layer in branch for head in layer]
        return [1 - statistics.fmean(counts) / self.tiles for counts in zip(*heads, strict=True)]


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % confidence interval, both None where there is none."""

    mean: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One method, averaged over clips of one length; ratios are taken clip by clip first.

    ``speed_up`` is dense attention time over this method's. ``over_ideal`` is attention time over
    (1 - sparsity) times dense attention time: 1 if skipped tiles cost nothing. ``flicker_change``
    is the flicker minus that of the dense clip. ``recognised`` of ``clips`` were seen as the kind
    asked for; None where there is no classifier.
    """

    label: str
    method: str
    threshold: float | None
    frames: int
    tokens: int
    clips: int
    attention_seconds: Interval
    total_seconds: Interval
    sparsity: Interval
    speed_up: Interval
    over_ideal: Interval
    psnr: Interval | None
    ssim: Interval | None
    flicker_change: Interval
    recognised: int | None


def summarise(measurements: Sequence[Measurement]) -> list[Row]:
    """One row for each method and clip length, in the order of their first appearance.

    Measurements without a dense one of the same clip are left out.
    """
    dense = {m.clip_key: m for m in measurements if m.method == "dense"}
    groups: dict[tuple[str, int], list[Measurement]] = {}
    for measurement in measurements:
        if measurement.clip_key in dense:
            groups.setdefault((measurement.label, measurement.frames), []).append(measurement)
    return [_row(group, [dense[m.clip_key] for m in group]) for group in groups.values()]


def _row(group: list[Measurement], dense: list[Measurement]) -> Row:
    first = group[0]
    pairs = list(zip(group, dense, strict=True))
    is_judged = first.recognised is not None
    return Row(
        label=first.label,
        method=first.method,
        threshold=first.threshold,
        frames=first.frames,
        tokens=first.tokens,
        clips=len(group),
        attention_seconds=interval(m.attention_seconds for m in group),
        total_seconds=interval(m.total_seconds for m in group),
        sparsity=interval(m.sparsity for m in group),
        speed_up=interval(d.attention_seconds / m.attention_seconds for m, d in pairs),
        over_ideal=interval(
            m.attention_seconds / ((1 - m.sparsity) * d.attention_seconds) for m, d in pairs
        ),
        psnr=_known(m.psnr for m in group),
        ssim=_known(m.ssim for m in group),
        flicker_change=interval(m.flicker - d.flicker for m, d in pairs),
        recognised=sum(m.recognised == m.wanted for m in group) if is_judged else None,
    )


def _known(values: Iterable[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return interval(known) if known else None


# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
_STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
              2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)  # fmt: skip
MIN_CLIPS_FOR_INTERVAL = 4


def student_t(freedom: int) -> float:
    """The two-sided 95 % quantile; for more than 20 degrees of freedom that of 20."""
    return _STUDENT_T[min(freedom, len(_STUDENT_T)) - 1]


def interval(values: Iterable[float]) -> Interval:
    """The mean, with Student's 95 % interval from MIN_CLIPS_FOR_INTERVAL values on."""
    sample = list(values)
    mean = statistics.fmean(sample)
    if len(sample) < MIN_CLIPS_FOR_INTERVAL:
        return Interval(mean)
    half = student_t(len(sample) - 1) * statistics.stdev(sample) / len(sample) ** 0.5
    return Interval(mean, mean - half, mean + half)


def featured(rows: Sequence[Row], least_psnr: float = 30.0) -> Row | None:
    """The sparse row of the shortest clips to put up front.

    The fastest one that reaches ``least_psnr`` dB, otherwise the one closest to dense.
    """
    sparse = [row for row in rows if row.method in LITE_METHODS and row.psnr is not None]
    if not sparse:
        return None
    shortest = min(row.frames for row in sparse)
    sparse = [row for row in sparse if row.frames == shortest]
    good = [row for row in sparse if row.psnr.mean >= least_psnr]
    if good:
        return max(good, key=lambda row: row.speed_up.mean)
    return max(sparse, key=lambda row: row.psnr.mean)

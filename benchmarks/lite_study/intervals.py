"""Means and slopes with Student's 95 % intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from saccade.report import Interval
from saccade.report.measurement import student_t

LEAST = 3  # values from which on there is an interval


def mean_of(values: Sequence[float]) -> Interval:
    mean = statistics.fmean(values)
    if len(values) < LEAST:
        return Interval(mean)
    error = statistics.stdev(values) / math.sqrt(len(values))
    return around(mean, error, len(values) - 1)


def slope_of(x: Sequence[float], y: Sequence[float]) -> Interval:
    """Of the straight line with the least squares."""
    slope, intercept = statistics.linear_regression(x, y)
    if len(x) < LEAST:
        return Interval(slope)
    left = sum((b - slope * a - intercept) ** 2 for a, b in zip(x, y, strict=True))
    freedom = len(x) - 2
    error = math.sqrt(left / freedom / (len(x) * statistics.pvariance(x)))
    return around(slope, error, freedom)


def around(value: float, error: float, freedom: int) -> Interval:
    """``error``: the standard error, from ``freedom`` degrees of freedom."""
    half = student_t(freedom) * error
    return Interval(value, value - half, value + half)


def text_of(interval: Interval, style: str, factor: float = 1.0) -> str:
    """Such as "25.1 ± 1.2"."""
    text = format(factor * interval.mean, style)
    if interval.high is None:
        return text
    half = factor * (interval.high - interval.mean)
    return f"{text} ± {format(half, style.replace('+', ''))}"

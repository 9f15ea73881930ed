"""Levels of equal output error, found with few generations, and how much is skipped there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from .methods import Method
from .study import Clip, Study


class Point(Protocol):
    level: float
    sparsity: float
    error: float


def neighbours(errors: Mapping[int, float], levels: int, target: float) -> tuple[int, int]:
    """The drawn levels, by number, on both sides of where an error is first crossed.

    -1 stands for dense attention, ``levels`` for what is beyond the last level.
    """
    above = min((i for i, error in errors.items() if error > target), default=levels)
    below = max((i for i, error in errors.items() if error <= target and i < above), default=-1)
    return below, above


def next_level(errors: Mapping[int, float], levels: int, target: float, guess: int) -> int | None:
    """Which level to draw next, until there is none between the neighbours of the target: None.

    ``errors``: of the levels that are drawn; they grow with it. ``guess``: the first one to try.
    """
    below, above = neighbours(errors, levels, target)
    if above - below == 1:
        return None
    if not errors:
        return min(max(guess, 0), levels - 1)
    if above == levels:
        return min(below + len(errors), levels - 1)
    if below == -1:
        return max(above - len(errors), 0)
    return (below + above) // 2


def search(study: Study, clip: Clip, method: Method, target: float, guess: int) -> int:
    """Draws the levels around the target; returns the number of the one below it."""
    errors = errors_of(study.drawn(clip, method), method)
    while (number := next_level(errors, len(method.levels), target, guess)) is not None:
        errors[number] = study.draw(clip, method, method.levels[number]).error
    return neighbours(errors, len(method.levels), target)[0]


def level_below(points: Sequence[Point], method: Method, target: float) -> int | None:
    """The number of the level below the target, as ``neighbours``; None before the search."""
    below, above = neighbours(errors_of(points, method), len(method.levels), target)
    return below if above - below == 1 else None


def errors_of(points: Sequence[Point], method: Method) -> dict[int, float]:
    return {method.levels.index(point.level): point.error for point in points}


def skipped_at(error: float, points: Sequence[Point], method: Method) -> float | None:
    """Of one clip, between two neighbouring levels; None before the search and beyond the last."""
    if level_below(points, method, error) is None:
        return None
    return value_at(error, [(0.0, 0.0), *((point.error, point.sparsity) for point in points)])


def value_at(error: float, line: Sequence[tuple[float, float]]) -> float | None:
    """Where (error, value) pairs, joined by straight lines, first cross an error; None: nowhere.

    The first pair is dense attention, which has no error.
    """
    for (low, at_low), (high, at_high) in pairwise(line):
        if low <= error < high:
            return at_low + (error - low) / (high - low) * (at_high - at_low)
    return None

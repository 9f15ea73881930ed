"""Levels of equal output error, found with few generations, and how much is skipped there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from .methods import Method
from .study import Clip, Study


class Point(Protocol):
    sparsity: float
    error: float


def next_level(errors: Mapping[int, float], levels: int, target: float, guess: int) -> int | None:
    """Which level to draw next, until the target lies between two neighbours.

    ``errors``: of the levels that are drawn, by number; they grow with it. ``guess``: the first one
    to try. None: the target is between two neighbours, below the first level (dense attention has
    no error) or above the last.
    """
    above = min((i for i, error in errors.items() if error > target), default=levels)
    below = max((i for i, error in errors.items() if error <= target and i < above), default=-1)
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
    numbers = {level: i for i, level in enumerate(method.levels)}
    errors = {numbers[one.level]: one.error for one in study.drawn(clip, method)}
    while (number := next_level(errors, len(numbers), target, guess)) is not None:
        errors[number] = study.draw(clip, method, method.levels[number]).error
    return max((i for i, error in errors.items() if error <= target), default=0)


def sparsity_at(error: float, points: Sequence[Point]) -> float | None:
    """Of one clip; None where its points, in the order of their levels, end before the error."""
    return value_at(error, [(0.0, 0.0), *((point.error, point.sparsity) for point in points)])


def value_at(error: float, line: Sequence[tuple[float, float]]) -> float | None:
    """Where (error, value) pairs, joined by straight lines, first cross an error; None: nowhere.

    The first pair is dense attention, which has no error.
    """
    for (low, at_low), (high, at_high) in pairwise(line):
        if low <= error < high:
            return at_low + (error - low) / (high - low) * (at_high - at_low)
    return None

"""Computed tiles and attention time against the length of the clip, at fixed output error."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from saccade.report import Interval

from . import pictures
from .equal_error import search, skipped_at, value_at
from .intervals import slope_of, text_of
from .methods import METHODS, PAPER, Method
from .section import Options, Section, TextTable
from .study import Clip, Study

MOST_CLIPS = 2
COMPARED = (PAPER, METHODS["alternating"])  # schedules are made for one length


def draw(study: Study, options: Options) -> None:
    for method in COMPARED:
        guess = len(method.levels) // 2
        for clip in clips_of(study, options):
            guess = search(study, clip, method, options.errors[0], guess)


def clips_of(study: Study, options: Options) -> list[Clip]:
    """The short ones first: they cost least."""
    count = min(options.clips, MOST_CLIPS)
    return [clip for frames in options.frames for clip in study.held_out(count, frames)]


@dataclass(frozen=True)
class AtError:
    """A clip and a method at the error. ``computed``: tiles of 64 x 64 for a head and call;
    ``seconds``: of all self-attention, as ``dense_seconds``."""

    method: str
    tokens: int
    seed: int
    skipped: float
    computed: float
    seconds: float
    dense_seconds: float


@dataclass(frozen=True)
class Exponents:
    """Of tokens."""

    method: str
    computed: Interval
    seconds: Interval
    dense_seconds: Interval


def section(study: Study, options: Options) -> Section | None:
    error = options.errors[0]
    clips = clips_of(study, options)
    found = (at_error(study, clip, method, error) for method in COMPARED for clip in clips)
    rows = [row for row in found if row is not None]
    groups = [rows_of(rows, method) for method in COMPARED]
    exponents = [exponents_of(group) for group in groups if len({r.tokens for r in group}) > 1]
    if not exponents:
        return None
    lengths = sorted({row.tokens for row in rows})
    table = [
        (
            one.method,
            *(", ".join(skipped_of(rows, one.method, length)) for length in lengths),
            *(text_of(x, ".2f") for x in (one.computed, one.seconds, one.dense_seconds)),
        )
        for one in exponents
    ]
    heads = ("tiles", "time", "dense time")
    columns = ("method", *(f"{length:,} tokens" for length in lengths), *heads)
    return Section(
        "Growth with the length of the clip",
        f"Skipped at error {error:g}, clip by clip, and exponents over tokens with their 95 % "
        "intervals: of computed tiles, of attention time, and of dense attention time. The tiles "
        "of dense attention have exponent 2.",
        [TextTable("by length", columns, table)],
        {"lite_growth": picture_of(rows)},
        {"exponents": [asdict(x) for x in exponents], "clips": [asdict(row) for row in rows]},
    )


def at_error(study: Study, clip: Clip, method: Method, error: float) -> AtError | None:
    points = study.drawn(clip, method)
    skipped = skipped_at(error, points, method)
    if skipped is None:
        return None
    tokens, dense_seconds = study.tokens(clip), study.dense_seconds(clip)
    seconds = [(0.0, dense_seconds), *((point.error, point.seconds) for point in points)]
    return AtError(
        *(method.name, tokens, clip.seed, skipped),
        computed=(1 - skipped) * (tokens / 64) ** 2,
        seconds=value_at(error, seconds),
        dense_seconds=dense_seconds,
    )


def rows_of(rows: list[AtError], method: Method) -> list[AtError]:
    return [row for row in rows if row.method == method.name]


def skipped_of(rows: list[AtError], method: str, tokens: int) -> list[str]:
    return [f"{row.skipped:.1%}" for row in rows if (row.method, row.tokens) == (method, tokens)]


def exponents_of(rows: list[AtError]) -> Exponents:
    tokens = [math.log(row.tokens) for row in rows]
    return Exponents(
        rows[0].method,
        *(
            slope_of(tokens, [math.log(value(row)) for row in rows])
            for value in (lambda r: r.computed, lambda r: r.seconds, lambda r: r.dense_seconds)
        ),
    )


def picture_of(rows: list[AtError]) -> bytes:
    figure, (axes,) = pictures.panels(1, width=5)
    lengths = sorted({row.tokens for row in rows})
    axes.plot(lengths, [(n / 64) ** 2 for n in lengths], color="0.6", label="dense")
    for number, method in enumerate(COMPARED):
        of_method = rows_of(rows, method)
        tokens = [row.tokens for row in of_method]
        axes.plot(tokens, [r.computed for r in of_method], "o", color=f"C{number}",
                  label=method.name)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="tiles computed by a head")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    pictures.legend(axes)
    return pictures.svg_of(figure)

"""Computed tiles and attention time against the length of the clip, at fixed output error."""

from __future__ import annotations

import math

from . import pictures
from .equal_error import search, sparsity_at
from .intervals import slope_of, text_of
from .methods import METHODS, PAPER, Method
from .section import Options, Section, TextTable
from .study import Clip, Study

COMPARED = (PAPER, METHODS["alternating"])  # schedules are made for one length


def draw(study: Study, options: Options) -> None:
    for method in COMPARED:
        guess = len(method.levels) // 2
        for clip in clips_of(study, options):
            guess = search(study, clip, method, options.errors[0], guess)


def clips_of(study: Study, options: Options) -> list[Clip]:
    """The short ones first: they cost least."""
    return [
        clip
        for count in [min(options.clips, 2)]
        for frames in options.frames
        for clip in study.held_out(count, frames)
    ]


def section(study: Study, options: Options) -> Section | None:
    rows = [
        row
        for method in COMPARED
        for clip in clips_of(study, options)
        if (row := computed(study, clip, method, options.errors[0]))
    ]
    if len({row["tokens"] for row in rows}) < 2:
        return None
    table, slopes = [], {}
    for method in COMPARED:
        of_method = [row for row in rows if row["method"] == method.name]
        if len({row["tokens"] for row in of_method}) < 2:
            continue
        slope = slope_of(
            [math.log(row["tokens"]) for row in of_method],
            [math.log(row["computed"]) for row in of_method],
        )
        slopes[method.name] = {"mean": slope.mean, "low": slope.low, "high": slope.high}
        cells = [
            ", ".join(f"{100 * row['skipped']:.1f} %" for row in of_method if row["tokens"] == n)
            for n in sorted({row["tokens"] for row in rows})
        ]
        table.append((method.name, *cells, text_of(slope, ".2f")))
    lengths = sorted({row["tokens"] for row in rows})
    columns = ("method", *(f"{length:,} tokens" for length in lengths), "exponent")
    return Section(
        "Growth with the length of the clip",
        f"Skipped at error {options.errors[0]:g}, clip by clip, and the exponent of computed tiles "
        "over tokens with its 95 % interval; that of dense attention is 2.",
        [TextTable("by length", columns, table)],
        {"lite_growth": picture_of(rows)},
        {"exponents": slopes, "clips": rows},
    )


def computed(study: Study, clip: Clip, method: Method, error: float) -> dict | None:
    """Tiles of 64 x 64 in all, in those of one dense call of the length."""
    skipped = sparsity_at(error, study.drawn(clip, method))
    if skipped is None:
        return None
    tokens = study.tokens(clip)
    return {
        "method": method.name,
        "tokens": tokens,
        "seed": clip.seed,
        "skipped": skipped,
        "computed": (1 - skipped) * (tokens / 64) ** 2,
    }


def picture_of(rows: list[dict]) -> bytes:
    figure, (axes,) = pictures.panels(1, width=5)
    lengths = sorted({row["tokens"] for row in rows})
    axes.plot(lengths, [(n / 64) ** 2 for n in lengths], color="0.6", label="dense")
    for number, method in enumerate(COMPARED):
        of_method = [row for row in rows if row["method"] == method.name]
        tokens = [row["tokens"] for row in of_method]
        axes.plot(tokens, [r["computed"] for r in of_method], "o", color=f"C{number}",
                  label=method.name)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="tiles computed by a head")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    pictures.legend(axes)
    return pictures.svg_of(figure)

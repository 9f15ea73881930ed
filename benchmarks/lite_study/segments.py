"""The paper's three segments against one flat bound of the output error, at equal final error."""

from __future__ import annotations

from .equal_error import search, skipped_at
from .intervals import mean_of, text_of
from .methods import METHODS
from .section import Options, Section, TextTable
from .study import Clip, Study

XI = 0.075  # the paper's, with tau = 0.01
THIRDS, FLAT = METHODS["calibrated, thirds"], METHODS["calibrated, flat"]


def draw(study: Study, options: Options) -> None:
    guess = FLAT.levels.index(XI)
    for clip in study.held_out(options.clips):
        thirds = study.draw(clip, THIRDS, XI)
        study.draw(clip, FLAT, XI)
        search(study, clip, FLAT, thirds.error, guess)


def section(study: Study, options: Options) -> Section | None:
    rows = [row for clip in study.held_out(options.clips) if (row := compare(study, clip))]
    if not rows:
        return None
    gains = [row["gain"] for row in rows if row["gain"] is not None]
    table = [
        (
            str(row["seed"]),
            *(f"{100 * row[name][0]:.1f} % at {row[name][1]:.4f}" for name in ("thirds", "flat")),
            "–" if row["flat_at_equal_error"] is None
            else f"{100 * row['flat_at_equal_error']:.1f} %",
            "–" if row["gain"] is None else f"{row['gain']:.3f}",
        )
        for row in rows
    ]  # fmt: skip
    if gains:
        table.append(("mean", "", "", "", text_of(mean_of(gains), ".3f")))
    columns = ("clip", "thirds", "flat", "flat at the error of thirds", "thirds over flat")
    return Section(
        "Three segments against one bound",
        f"Calibrated on one clip, used on others: output errors {XI - 0.01:g}, {XI:g} and "
        f"{XI + 0.01:g} in the thirds of the steps, and {XI:g} at all. Skipped at the error of "
        "the finished clip.",
        [TextTable(f"xi = {XI:g}, tau = 0.01", columns, table)],
        data=rows,
    )


def compare(study: Study, clip: Clip) -> dict | None:
    drawn = {one.level: one for one in study.drawn(clip, THIRDS)}
    points = study.drawn(clip, FLAT)
    flat = {one.level: one for one in points}
    if XI not in drawn or XI not in flat:
        return None
    thirds = drawn[XI]
    equal = skipped_at(thirds.error, points, FLAT)
    return {
        "seed": clip.seed,
        "thirds": (thirds.sparsity, thirds.error),
        "flat": (flat[XI].sparsity, flat[XI].error),
        "flat_at_equal_error": equal,
        "gain": None if equal is None else thirds.sparsity / equal,
    }

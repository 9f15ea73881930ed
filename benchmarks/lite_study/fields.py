"""Synthetic score fields whose negligible tiles are known, through saccade.LiteAttention itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import saccade

from . import pictures
from .methods import BLOCKS
from .section import Options, Section, TextTable
from .study import Study

LENGTH, FEATURES, TILE, STEPS = 1024, 64, 64, 12
NEGLIGIBLE = 2.0**-10  # mass of a tile, the mean over its rows

Field = Callable[[int], tuple[Tensor, Tensor]]
"""q and k of a step, double [LENGTH, FEATURES]; logits are q k^T."""


def band(drift: int, height: float = 12.0) -> Field:
    """A diagonal band of logit ``height`` and a few dozen keys, that moves by ``drift`` a step."""
    frequencies = torch.arange(FEATURES // 2, dtype=torch.float64)
    weights = torch.exp(-0.5 * (frequencies / 12) ** 2)
    amplitude = (height * weights / weights.sum()).sqrt()
    tokens = torch.arange(LENGTH, dtype=torch.float64)

    def waves(places: Tensor) -> Tensor:
        angles = places[:, None] * frequencies * (math.pi / LENGTH)
        return torch.cat([amplitude * angles.cos(), amplitude * angles.sin()], 1)

    return lambda step: (waves(tokens), waves(tokens + drift * step))


def columns(drift: int, height: float = 8.0) -> Field:
    """All queries look at 128 keys, which move by ``drift`` a step; all others have logit 0."""
    everyone = torch.arange(LENGTH)
    return lambda step: (
        along(everyone >= 0, height),
        along(is_within(everyone, 256 + drift * step, 128), height),
    )


def block(drift: int, height: float = 10.0) -> Field:
    """384 queries look at 384 keys, which move; the other queries look at all keys alike."""
    tokens = torch.arange(LENGTH)
    return lambda step: (
        along(is_within(tokens, 256, 384), height),
        along(is_within(tokens, 256 + drift * step, 384), height),
    )


def noise(drift: int) -> Field:
    """Normal logits of variance 1, the same at all steps, or others if ``drift`` is not 0."""

    def inputs(step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(step if drift else 0)
        q, k = torch.randn(2, LENGTH, FEATURES, generator=generator, dtype=torch.float64)
        return q / FEATURES**0.25, k / FEATURES**0.25

    return inputs


def is_within(tokens: Tensor, begin: int, count: int) -> Tensor:
    return (tokens >= begin) & (tokens < begin + count)


def along(chosen: Tensor, height: float) -> Tensor:
    """sqrt(height) along one feature for the chosen tokens, so that two of them meet at height."""
    x = torch.zeros(LENGTH, FEATURES, dtype=torch.float64)
    x[chosen, 0] = math.sqrt(height)
    return x


FIELDS: dict[str, Callable[[int], Field]] = {
    "band": band,
    "columns": columns,
    "block": block,
    "noise": noise,
}
MOTIONS = {"still": 0, "moving": 16}  # tokens a step

RULES: dict[str, dict[str, Any]] = {
    "paper, -8": {"threshold": -8.0},
    "alternating, -8": {"threshold": -8.0, "order": "alternating"},
    "radial order, -8": {"threshold": -8.0, "order": "radial"},
    "probes 1/4, -8": {"threshold": -8.0, "reprobe_period": 4},
    "lse, -8": {"threshold": -8.0, "reference": "lse"},
    "mean mass, -10": {"threshold": -10.0, "measure": "mean_mass"},
    "largest mass, -10": {"threshold": -10.0, "measure": "largest_mass"},
}


@dataclass(frozen=True)
class Found:
    """Means over the steps after the first, as shares.

    ``negligible``: of all tiles; ``dropped``: of all tiles; ``found``: of the negligible ones, what
    was dropped; ``wrong``: of what was dropped, what is not negligible; ``lost``: softmax mass.
    """

    field: str
    motion: str
    rule: str
    negligible: float
    dropped: float
    found: float
    wrong: float
    lost: float


def masses(q: Tensor, k: Tensor) -> Tensor:
    """The softmax mass of every tile, the mean over its rows: [q_tiles, k_tiles]."""
    weights = (q @ k.T).softmax(1)
    return weights.unflatten(1, (-1, TILE)).sum(2).unflatten(0, (-1, TILE)).mean(1)


def truth(field: Field) -> Tensor:
    """Which tiles are negligible: bool [steps, q_tiles, k_tiles]."""
    return torch.stack([masses(*field(step)) <= NEGLIGIBLE for step in range(STEPS)])


def measure(field: Field, options: dict[str, Any]) -> tuple[Tensor, list[float]]:
    """What a rule drops, bool [steps, q_tiles, k_tiles], and the mass that it loses, by step."""
    lite = saccade.LiteAttention(**options, **BLOCKS, scale=1.0, measures_mass=True)
    v = torch.randn(LENGTH, FEATURES, generator=torch.Generator().manual_seed(1))
    dropped = []
    for step in range(STEPS):
        kept = lite.mask().to_dense()[0, 0] if step else torch.ones(2 * (LENGTH // TILE,)).bool()
        dropped.append(~kept)
        lite(*(x.float()[None, None] for x in (*field(step), v)), step=step)
    return torch.stack(dropped), [1 - float(one.kept_mass.mean()) for one in lite.statistics]


def all_found() -> Iterator[Found]:
    for name, make in FIELDS.items():
        for motion, drift in MOTIONS.items():
            field = make(drift)
            negligible = truth(field)[1:]
            for rule, options in RULES.items():
                dropped, lost = measure(field, options)
                dropped = dropped[1:]
                both = float((negligible & dropped).sum())
                yield Found(
                    *(name, motion, rule),
                    negligible=float(negligible.float().mean()),
                    dropped=float(dropped.float().mean()),
                    found=both / max(float(negligible.sum()), 1.0),
                    wrong=1 - both / float(dropped.sum()) if dropped.any() else 0.0,
                    lost=sum(lost[1:]) / (STEPS - 1),
                )


def draw(_study: Study, _options: Options) -> None:
    """Nothing: the fields take seconds."""


def section(_study: Study, _options: Options) -> Section:
    found = list(all_found())
    return Section(
        "Score fields with known structure",
        f"{LENGTH:,} tokens, {STEPS} steps, the first one dense. A tile is negligible at a step if "
        "its softmax mass, the mean over its rows, is at most 2^-10. Found: share of them that is "
        "dropped. Wrong: share of what is dropped that is not negligible. Lost: softmax mass. "
        f"Moving fields move by {MOTIONS['moving']} tokens a step; moving noise is new at each.",
        [table_of([one for one in found if one.field == name]) for name in FIELDS],
        {"lite_fields": picture_of()},
        [asdict(one) for one in found],
    )


def table_of(found: Sequence[Found]) -> TextTable:
    """Of one field."""
    rows = []
    for rule in RULES:
        of_rule = {one.motion: one for one in found if one.rule == rule}
        shares = [(of_rule[m].found, of_rule[m].wrong, abs(of_rule[m].lost)) for m in MOTIONS]
        rows.append((rule, *(" / ".join(f"{100 * x:.1f}" for x in cell) for cell in shares)))
    negligible = {one.motion: f"{one.motion} {100 * one.negligible:.1f} %" for one in found}
    heads = (f"{motion}: found / wrong / lost, %" for motion in MOTIONS)
    title = f"{found[0].field}: negligible {', '.join(negligible.values())}"
    return TextTable(title, ("rule", *heads), rows)


def picture_of() -> bytes:
    """The moving fields at their first and last step, as masses of tiles."""
    figure, axes = pictures.panels(len(FIELDS), width=3.6, height=2.2)
    gap = torch.full((LENGTH // TILE, 1), math.nan)
    for one, (name, make) in zip(axes, FIELDS.items(), strict=True):
        field = make(MOTIONS["moving"])
        first, last = (masses(*field(step)).log2() for step in (0, STEPS - 1))
        one.imshow(torch.cat([first, gap, last], 1).numpy(), vmin=-16, vmax=0, cmap="Blues")
        one.set(title=f"{name}, first and last step", xlabel="key tiles", ylabel="query tiles")
        one.set(xticks=[], yticks=[])
        one.grid(visible=False)
    return pictures.svg_of(figure)

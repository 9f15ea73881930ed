"""How long negligible tiles stay negligible: what LiteAttention stands on, measured.

Draws clips dense and keeps the softmax mass of every tile at every step, the mean over its rows. A
tile is negligible at a step if that is at most 2^threshold. For each number of steps d:
  P        the share of the tiles negligible at step t that are so at t + d, over all t
  chance   the share of all tiles that is negligible at t + d: P if steps had nothing in common
  mass     the softmax mass at t + d of the tiles that were negligible at t, the mean over rows:
           what skipping them loses
All layers together, and in the JSON by layer, head and guidance branch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

import saccade
from saccade import _ops
from saccade.calibration import CalibratedLayer, Setting
from saccade.errors import call
from saccade.files import write_atomically
from saccade.lite_schedule import StepPlan

from . import pictures
from .section import Options, Section, TextTable
from .study import Clip, Study

BLOCK = 64
THRESHOLDS = (-12.0, -10.0, -8.0)


class MassLayer(CalibratedLayer):
    """Dense attention that keeps the masses of its tiles: float32 [heads, q_tiles, k_tiles]."""

    def reset(self) -> None:
        super().reset()
        self.masses: dict[str, list[Tensor]] = {}

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, step: int, branch: str, sigma: float
    ) -> Tensor:
        self._branch = branch
        return super().__call__(q, k, v, step=step, branch=branch, sigma=sigma)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, step: int, plan: StepPlan, state: Any
    ) -> Tensor:
        plan = plan._replace(is_dense=True)
        out, *_ = call(
            _ops.lite_calibrate_step,
            *self._arguments(q, k, v, step, plan, state),
            *(0.0, True, 1.0),
            *self._ranges,
        )
        self.masses.setdefault(self._branch, []).append(state.scores[0].exp2())
        return out


@dataclass(frozen=True)
class Coherence:
    """Of one layer, head, branch and threshold at a distance of ``d`` steps; see above."""

    layer: str
    head: int
    branch: str
    threshold: float
    d: int
    stays: float
    chance: float
    mass: float
    pairs: int  # tiles that were negligible, over all steps


def draw(study: Study, options: Options) -> None:
    for clip in study.held_out(options.coherence_clips):
        path = study.folder / "coherence" / f"clip_{clip.seed}.json"
        if not path.exists():
            study.note(f"{clip.prompt} · masses")
            found = [
                asdict(row)
                for layer, branches in draw_masses(study, clip).items()
                for branch, masses in branches.items()
                for row in measure(layer, branch, masses)
            ]
            write_atomically(path, json.dumps(found).encode())


def draw_masses(study: Study, clip: Clip) -> dict[str, dict[str, Tensor]]:
    """[layer][branch], float32 [steps, heads, q_tiles, k_tiles]."""
    layers: dict[str, MassLayer] = {}
    names = ("mean_mass", "running", "linear", BLOCK, BLOCK)
    setting = Setting(saccade.LiteSchedule(), *names, on_step=lambda _: None)

    def make(path: str) -> MassLayer:
        layers[path] = MassLayer(path, setting)
        return layers[path]

    study.draw_with(clip, method=make)
    return {
        path: {branch: torch.stack(steps) for branch, steps in layer.masses.items()}
        for path, layer in layers.items()
    }


def measure(layer: str, branch: str, masses: Tensor) -> Iterator[Coherence]:
    steps, heads = masses.shape[:2]
    for threshold in THRESHOLDS:
        negligible = masses <= 2.0**threshold
        for d in range(1, steps):
            before, after, later = negligible[:-d], negligible[d:], masses[d:]
            for head in range(heads):
                was = before[:, head]
                pairs = int(was.sum())
                stays = float((was & after[:, head]).sum()) / max(pairs, 1)
                lost = float((later[:, head] * was).sum(-1).mean())
                chance = float(after[:, head].float().mean())
                yield Coherence(layer, head, branch, threshold, d, stays, chance, lost, pairs)


def together(rows: list[Coherence]) -> tuple[float, float, float]:
    """P (NaN where nothing was negligible), chance and mass of layers, heads and branches."""
    pairs = sum(row.pairs for row in rows)
    stays = sum(row.stays * row.pairs for row in rows) / pairs if pairs else float("nan")
    return (
        stays,
        sum(row.chance for row in rows) / len(rows),
        sum(row.mass for row in rows) / len(rows),
    )


def section(study: Study, options: Options) -> Section | None:
    rows = [
        Coherence(**row)
        for path in sorted((study.folder / "coherence").glob("clip_*.json"))
        for row in json.loads(path.read_text())
    ]
    if not rows:
        return None
    return Section(
        "How long negligible tiles stay so",
        "Dense clips: a tile is negligible if its softmax mass is at most 2^threshold. P: share of "
        "the negligible tiles that are so d steps later; chance: share of all tiles; mass: what "
        "skipping them loses.",
        [table_of(rows)],
        {"lite_coherence": picture_of(rows)},
    )


def table_of(rows: list[Coherence]) -> TextTable:
    cells = []
    for threshold in THRESHOLDS:
        for d in (1, 2, 4, 8):
            some = [row for row in rows if (row.threshold, row.d) == (threshold, d)]
            if some:
                stays, chance, mass = together(some)
                shares = (f"{stays:.1%}", f"{chance:.1%}", f"{mass:.2%}")
                cells.append((f"2^{threshold:g}", str(d), *shares))
    return TextTable("all layers", ("threshold", "d", "P", "chance", "mass"), cells)


def picture_of(rows: list[Coherence]) -> bytes:
    figure, axes = pictures.panels(3)
    distances = sorted({row.d for row in rows})
    for number, threshold in enumerate(THRESHOLDS):
        of_threshold = [row for row in rows if row.threshold == threshold]
        found = [together([row for row in of_threshold if row.d == d]) for d in distances]
        colour = f"C{number}"
        axes[0].plot(distances, [f[0] for f in found], color=colour, label=f"2^{threshold:g}")
        axes[0].plot(distances, [f[1] for f in found], color=colour, linestyle=":")
        axes[2].plot(distances, [f[2] for f in found], color=colour, label=f"2^{threshold:g}")
    middle = [row for row in rows if row.threshold == THRESHOLDS[1]]
    for layer in dict.fromkeys(row.layer for row in rows):
        of_layer = [row for row in middle if row.layer == layer]
        stays = [together([row for row in of_layer if row.d == d])[0] for d in distances]
        axes[1].plot(distances, stays, label=layer)
    axes[0].set(title="stays negligible (dotted: chance)", ylim=(0, 1))
    axes[1].set(title=f"by layer, 2^{THRESHOLDS[1]:g}", ylim=(0, 1))
    axes[2].set(title="softmax mass of what was negligible")
    for one in axes:
        one.set(xlabel="steps later")
        pictures.legend(one, loc="lower left" if one is axes[1] else "best")
    return pictures.svg_of(figure)

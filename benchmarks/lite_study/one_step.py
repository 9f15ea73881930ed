"""One step alone is sparse: what its error does to the finished clip, by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch import Tensor

import saccade

from . import pictures
from .intervals import mean_of, text_of
from .journal import Journal
from .methods import BLOCKS
from .section import Options, Section, TextTable
from .study import Clip, Study, relative_l1

THRESHOLD = -0.25


@dataclass(frozen=True)
class SparseStep:
    """``attention_error``: relative L1 of the step's attention outputs, the mean over its calls;
    ``error``: of the finished clip; ``sparsity``: of the step."""

    model: str
    steps: int
    tokens: int
    prompt: str
    seed: int
    threshold: float
    step: int
    sparsity: float
    attention_error: float
    error: float
    commit: str

    @property
    def key(self) -> tuple:
        clip = self.model, self.steps, self.tokens, self.prompt, self.seed
        return *clip, self.threshold, self.step


class OneStepAttention:
    """Dense, but for step ``step``: it skips what LiteAttention marked at the step before.

    ``errors`` and ``shares``: relative L1 error and skipped share of each call of that step.
    """

    def __init__(self, step: int, errors: list[float], shares: list[float]) -> None:
        self._step = step
        self._errors, self._shares = errors, shares
        self._lite = saccade.LiteAttention(threshold=THRESHOLD, layout="bshd", **BLOCKS)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, step: int, branch: str) -> Tensor:
        if step == self._step - 1:
            return self._lite(q, k, v, step=0, branch=branch)
        dense = saccade.attention(q, k, v, layout="bshd")
        if step != self._step:
            return dense
        sparse = self._lite(q, k, v, step=1, branch=branch)
        self._errors.append(relative_l1(sparse, dense))
        self._shares.append(self._lite.statistics[-1].sparsity)
        return sparse


def draw(study: Study, options: Options) -> None:
    rows = rows_of(study)
    for clip in study.held_out(options.clips):
        for step in options.steps or range(1, study.sampling.steps):
            draw_step(study, rows, clip, step)


def rows_of(study: Study) -> Journal[SparseStep]:
    return Journal(study.folder / "one_step.jsonl", SparseStep)


def draw_step(study: Study, rows: Journal[SparseStep], clip: Clip, step: int) -> None:
    what = {
        "model": study.model.fingerprint,
        "steps": study.sampling.steps,
        "tokens": study.tokens(clip),
        "prompt": clip.prompt,
        "seed": clip.seed,
        "threshold": THRESHOLD,
        "step": step,
    }
    if tuple(what.values()) in rows:
        return
    dense = study.dense(clip)
    study.note(f"{clip.prompt} · step {step} alone")
    errors: list[float] = []
    shares: list[float] = []

    def make(_path: str) -> Callable[..., Tensor]:
        return OneStepAttention(step, errors, shares)

    drawn, _ = study.draw_with(clip, method=make)
    rows.add(
        SparseStep(
            **what,
            sparsity=sum(shares) / len(shares),
            attention_error=sum(errors) / len(errors),
            error=relative_l1(drawn, dense),
            commit=study.commit,
        )
    )


def section(study: Study, options: Options) -> Section | None:
    rows = list(rows_of(study))
    if not rows:
        return None
    table = []
    for step in sorted({row.step for row in rows}):
        of_step = [row for row in rows if row.step == step]
        numbers = (
            ([row.sparsity for row in of_step], ".1f", 100),
            ([row.attention_error for row in of_step], ".4f", 1),
            ([row.error for row in of_step], ".4f", 1),
            ([row.error / row.attention_error for row in of_step], ".3f", 1),
        )
        cells = (text_of(mean_of(values), style, factor) for values, style, factor in numbers)
        table.append((str(step), str(len(of_step)), *cells))
    columns = ("step", "clips", "skipped, %", "attention error", "clip error", "clip / attention")
    return Section(
        "One sparse step",
        f"Every step is dense but one (steps count from 0), which skips what threshold "
        f"{THRESHOLD:g} marked at the step before. Errors are relative L1 against dense.",
        [TextTable("by step", columns, table)],
        {"lite_one_step": picture_of(rows)},
        [asdict(row) for row in rows],
    )


def picture_of(rows: list[SparseStep]) -> bytes:
    figure, axes = pictures.panels(3)
    panels: list[tuple[str, Callable[[SparseStep], float]]] = [
        ("error of the finished clip", lambda row: row.error),
        ("error of the step's attention", lambda row: row.attention_error),
        ("clip error over attention error", lambda row: row.error / row.attention_error),
    ]
    steps = sorted({row.step for row in rows})
    for one, (title, value) in zip(axes, panels, strict=True):
        for seed in sorted({row.seed for row in rows}):
            of_clip = sorted((r for r in rows if r.seed == seed), key=lambda row: row.step)
            one.plot([r.step for r in of_clip], [value(r) for r in of_clip], color="0.75")
        means = [mean_of([value(r) for r in rows if r.step == step]).mean for step in steps]
        one.plot(steps, means, "o-", color="#3b6fb6", linewidth=2)
        one.set(title=title, xlabel="the sparse step")
        one.set_ylim(bottom=0)
    return pictures.svg_of(figure)

"""Attention time at equal output error: pairs of a dense generation and a sparse one after it.

A pair is drawn at the level just below the error. What its time exceeds (1 - sparsity) times dense,
choosing tiles included, is taken to be the same at the error itself.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from saccade.report import Interval

from .equal_error import level_below
from .intervals import mean_of, text_of
from .journal import Journal
from .methods import BASELINES, Method
from .rules import chosen, skipped_by_seed
from .section import Options, Section, TextTable
from .study import Clip, Study

GOAL = 0.90  # of the time of the best baseline


@dataclass(frozen=True)
class Pair:
    model: str
    steps: int
    tokens: int
    prompt: str
    seed: int
    method: str
    level: float
    threads: int
    number: int
    sparsity: float
    seconds: float
    dense_seconds: float
    commit: str

    @property
    def key(self) -> tuple:
        clip = self.model, self.steps, self.tokens, self.prompt, self.seed
        return *clip, self.method, self.level, self.threads, self.number

    @property
    def over_ideal(self) -> float:
        """Time over (1 - sparsity) times dense: 1 if choosing and skipping cost nothing."""
        return self.seconds / ((1 - self.sparsity) * self.dense_seconds)


def pairs_of(study: Study) -> Journal[Pair]:
    return Journal(study.folder / "times.jsonl", Pair)


def draw(study: Study, options: Options) -> None:
    pairs = pairs_of(study)
    clip = study.held_out(1)[0]
    for number in range(options.pairs):
        for method in chosen(options):
            below = level_below(study.drawn(clip, method), method, options.errors[0])
            if below is not None:
                draw_pair(study, pairs, clip, method, method.levels[max(below, 0)], number)


def draw_pair(
    study: Study, pairs: Journal[Pair], clip: Clip, method: Method, level: float, number: int
) -> None:
    what = {
        "model": study.model.fingerprint,
        "steps": study.sampling.steps,
        "tokens": study.tokens(clip),
        "prompt": clip.prompt,
        "seed": clip.seed,
        "method": method.name,
        "level": level,
        "threads": torch.get_num_threads(),
        "number": number,
    }
    if tuple(what.values()) in pairs:
        return
    study.note(f"timing {method.name}")
    arguments = method.arguments(study, level)
    _, dense = study.draw_with(clip, method="dense")
    _, sparse = study.draw_with(clip, **arguments)
    pairs.add(
        Pair(
            **what,
            sparsity=sparse.sparsity,
            seconds=sparse.seconds,
            dense_seconds=dense.seconds,
            commit=study.commit,
        )
    )


def section(study: Study, options: Options) -> Section | None:
    error, pairs = options.errors[0], list(pairs_of(study))
    times = {}
    for method in chosen(options):
        of_method = [pair for pair in pairs if pair.method == method.name]
        skipped = list(skipped_by_seed(study, options, method, error).values())
        if of_method and skipped:
            times[method.name] = time_at(of_method, skipped)
    if not times:
        return None
    rows = [
        (name, *(text_of(x, ".2f") for x in numbers))
        for name, numbers in sorted(times.items(), key=lambda item: item[1][1].mean)
    ]
    goal = goal_of(times)
    threads = sorted({pair.threads for pair in pairs})
    return Section(
        "Attention time at equal output error",
        "Each sparse generation right after a dense one of the same clip, "
        f"{'/'.join(map(str, threads))} threads. Of ideal: time over (1 − sparsity) × dense, "
        "choosing tiles included. Share of dense: that times what is computed at the error. "
        + (str(goal) if goal else ""),
        [TextTable(f"at error {error:g}", ("method", "of ideal", "share of dense"), rows)],
        data={
            "times": {
                name: {"over_ideal": asdict(a), "of_dense": asdict(b)}
                for name, (a, b) in times.items()
            },
            "goal": goal and asdict(goal) | {"is_met": goal.is_met},
            "pairs": [asdict(pair) for pair in pairs],
        },
    )


def time_at(pairs: list[Pair], skipped: list[float]) -> tuple[Interval, Interval]:
    """Over the ideal time, and over the dense time at the error."""
    over_ideal = mean_of([pair.over_ideal for pair in pairs])
    return over_ideal, mean_of([over_ideal.mean * (1 - share) for share in skipped])


@dataclass(frozen=True)
class Goal:
    """The fastest rule against the fastest baseline."""

    best: str
    baseline: str
    ratio: float

    @property
    def is_met(self) -> bool:
        return self.ratio <= GOAL

    def __str__(self) -> str:
        return (
            f"Goal, {GOAL:.2f} of the time of the best baseline: "
            f"{'met' if self.is_met else 'not met'}; {self.best} takes {self.ratio:.2f} of that of "
            f"{self.baseline}."
        )


def goal_of(times: dict[str, tuple[Interval, Interval]]) -> Goal | None:
    """None without both."""
    baselines = {method.name for method in BASELINES}
    of_dense = {name: numbers[1].mean for name, numbers in times.items()}
    rules, others = (
        [name for name in of_dense if (name in baselines) == is_baseline]
        for is_baseline in (False, True)
    )
    if not rules or not others:
        return None
    best, baseline = min(rules, key=of_dense.__getitem__), min(others, key=of_dense.__getitem__)
    return Goal(best, baseline, of_dense[best] / of_dense[baseline])

"""Every rule, order and baseline at equal output error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from saccade.report import Interval

from . import pictures
from .equal_error import search, skipped_at
from .intervals import mean_of, text_of
from .methods import BASELINES, METHODS, PAPER, Method
from .section import Options, Section, TextTable
from .study import Study

GOAL = 1.10  # of the paper's sparsity


@dataclass(frozen=True)
class Result:
    """A method at an output error. ``skipped``: of each clip that reaches it, by seed; ``gains``:
    the same over that of the paper's rule on the same clip."""

    method: str
    error: float
    skipped: dict[int, float]
    gains: dict[int, float]


def draw(study: Study, options: Options) -> None:
    """Clip by clip, so that an interruption leaves whole clips."""
    guesses: dict[tuple[str, float], int] = {}
    for clip in study.held_out(options.clips):
        for error in options.errors:
            for method in chosen(options):
                guess = guesses.get((method.name, error), len(method.levels) // 2)
                guesses[method.name, error] = search(study, clip, method, error, guess)


def chosen(options: Options) -> list[Method]:
    return [METHODS[name] for name in options.methods]


def results(study: Study, options: Options) -> Iterator[Result]:
    for error in options.errors:
        of_paper = skipped_by_seed(study, options, PAPER, error)
        for method in chosen(options):
            skipped = skipped_by_seed(study, options, method, error)
            gains = {
                seed: share / of_paper[seed] for seed, share in skipped.items() if seed in of_paper
            }
            if skipped:
                yield Result(method.name, error, skipped, gains)


def skipped_by_seed(
    study: Study, options: Options, method: Method, error: float
) -> dict[int, float]:
    """Without clips that are not drawn or do not reach the error."""
    clips = study.held_out(options.clips)
    shares = {clip.seed: skipped_at(error, study.drawn(clip, method), method) for clip in clips}
    return {seed: share for seed, share in shares.items() if share is not None}


def section(study: Study, options: Options) -> Section | None:
    found = list(results(study, options))
    if not found:
        return None
    goals = [goal for error in options.errors if (goal := goal_of(found, error))]
    return Section(
        "Rules, orders and baselines at equal output error",
        "Share of all tiles that is skipped at a relative L1 error of the clip against the dense "
        "one of the same noise: mean over held-out clips ± Student's 95 % interval. Gain: over "
        "the paper's rule (running maximum, linear order), clip by clip. "
        + " ".join(map(str, goals)),
        [table_of([r for r in found if r.error == error], error) for error in options.errors],
        {"lite_rules": picture_of(found)},
        {
            "results": [asdict(result) for result in found],
            "goals": [asdict(goal) | {"is_met": goal.is_met} for goal in goals],
            "generations": [asdict(generation) for generation in study.generations],
        },
    )


def table_of(found: list[Result], error: float) -> TextTable:
    found = sorted(found, key=lambda r: -mean_of(list(r.skipped.values())).mean)
    rows = [
        (
            result.method,
            str(len(result.skipped)),
            text_of(mean_of(list(result.skipped.values())), ".1f", 100) + " %",
            text_of(gain_of(result), ".2f") if result.gains else "–",
        )
        for result in found
    ]
    return TextTable(f"at error {error:g}", ("method", "clips", "skipped", "gain"), rows)


def gain_of(result: Result) -> Interval:
    return mean_of(list(result.gains.values()))


@dataclass(frozen=True)
class Goal:
    """Whether the rule that gains most gains GOAL."""

    error: float
    best: str
    gain: Interval

    @property
    def is_met(self) -> bool:
        return self.gain.mean >= GOAL

    @property
    def verdict(self) -> str:
        if not self.is_met:
            return "not met"
        if self.gain.low is None:
            return "met, from too few clips for an interval"
        return "met with its interval" if self.gain.low >= GOAL else "met, not with its interval"

    def __str__(self) -> str:
        return (
            f"Goal at error {self.error:g}, {GOAL:.2f} of what the paper's rule skips: "
            f"{self.verdict}; {self.best} reaches {text_of(self.gain, '.2f')}."
        )


def goal_of(found: list[Result], error: float) -> Goal | None:
    """None without another rule."""
    others = {PAPER.name, *(method.name for method in BASELINES)}
    rules = [r for r in found if r.error == error and r.gains and r.method not in others]
    if not rules:
        return None
    best = max(rules, key=lambda r: gain_of(r).mean)
    return Goal(error, best.method, gain_of(best))


def picture_of(found: list[Result]) -> bytes:
    """One row a method, one panel an error."""
    errors = list(dict.fromkeys(result.error for result in found))
    names = list(dict.fromkeys(result.method for result in found))
    first = {r.method: mean_of(list(r.skipped.values())).mean for r in reversed(found)}
    names.sort(key=lambda name: first[name])
    height = 0.9 + 0.27 * len(names)
    figure, axes = pictures.panels(len(errors), width=5.2, height=height)
    baselines = {method.name for method in BASELINES}
    for one, error in zip(axes, errors, strict=True):
        for result in (r for r in found if r.error == error):
            y = names.index(result.method)
            shares = [100 * share for share in result.skipped.values()]
            colour = "#e0803a" if result.method in baselines else "#3b6fb6"
            skipped = mean_of(shares)
            if skipped.high is not None:
                one.plot([skipped.low, skipped.high], [y, y], color=colour, linewidth=2, alpha=0.5)
            one.plot(shares, [y] * len(shares), "|", color="0.45", markersize=7)
            one.plot([skipped.mean], [y], "o", color=colour, markersize=6)
        one.set(title=f"error {error:g}", xlabel="tiles skipped, %")
        one.set_yticks(range(len(names)), names)
        one.set_xlim(left=0)
    return pictures.svg_of(figure)

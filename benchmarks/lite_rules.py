"""LiteAttention's rules on the demo model: how much each skips at equal error.

    python benchmarks/lite_rules.py [--prompts 2] [--out build/lite_rules]

Draws the demo's clips dense and with every rule at several levels: thresholds, or budgets of
softmax mass. The error of a clip is its relative L1 distance from the dense one of the same noise,
mean |x - dense| / mean |dense|. For each rule the sparsity at a few errors is interpolated between
its levels, clip by clip; an error that a rule does not reach leaves a gap. Every generation is
written to OUT/generations.jsonl when it is finished, and found there when the command is run again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

import saccade
from saccade.demo.load import find_device, load_model
from saccade.demo.models import Model, Shape

BLOCKS = {"block_q": 64, "block_k": 64}
THRESHOLDS = (-5.0, -3.0, -2.0, -1.0, -0.5, -0.25)
MASS_THRESHOLDS = (-12.0, -10.0, -9.0, -8.0, -7.0, -6.0)
LSE_THRESHOLDS = (-10.0, -8.0, -7.0, -6.0, -5.0, -4.0)
MASS_BUDGETS = (0.02, 0.04, 0.08, 0.16, 0.32)
BUDGETS = (0.1, 0.3, 0.6, 1.0, 2.0, 4.0)
ERRORS = (0.02, 0.03, 0.04, 0.06)

# Options of LiteAttention, and the levels that are tried.
RULES: dict[str, tuple[dict[str, object], str, tuple[float, ...]]] = {
    "paper (running, linear)": ({}, "threshold", THRESHOLDS),
    "mean mass": ({"measure": "mean_mass"}, "threshold", MASS_THRESHOLDS),
    "largest mass": ({"measure": "largest_mass"}, "threshold", MASS_THRESHOLDS),
    "mean mass, budget": ({"measure": "mean_mass"}, "mass_budget", MASS_BUDGETS),
    "running, reversed": ({"order": "reversed"}, "threshold", THRESHOLDS),
    "running, alternating": ({"order": "alternating"}, "threshold", THRESHOLDS),
    "running, radial": ({"order": "radial"}, "threshold", THRESHOLDS),
    "running, probes 1/8": ({"reprobe_period": 8}, "threshold", THRESHOLDS),
    "lse": ({"reference": "lse"}, "threshold", LSE_THRESHOLDS),
    "lse, probes 1/8": ({"reference": "lse", "reprobe_period": 8}, "threshold", LSE_THRESHOLDS),
    "running, budget": ({}, "mass_budget", BUDGETS),
    "lse, budget": ({"reference": "lse"}, "mass_budget", BUDGETS),
    "lse, budget, probes 1/8": (
        {"reference": "lse", "reprobe_period": 8},
        "mass_budget",
        BUDGETS,
    ),
}


@dataclass(frozen=True)
class Generation:
    """One clip. ``seconds``: of its attention, by all layers."""

    rule: str
    level: float
    prompt: str
    seed: int
    sparsity: float
    error: float
    seconds: float

    @property
    def key(self) -> tuple[str, float, str, int]:
        return self.rule, self.level, self.prompt, self.seed


def generations(
    model: Model, prompts: list[str], rules: list[str], path: Path, progress: Progress
) -> Iterator[Generation]:
    """Every rule at every level, prompt by prompt; those of ``path`` are not drawn again."""
    finished = read(path)
    total = sum(len(RULES[rule][2]) for rule in rules) * len(prompts)
    task = progress.add_task("drawing", total=total)
    for seed, prompt in enumerate(prompts):
        dense: Tensor | None = None
        for rule in rules:
            options, what, levels = RULES[rule]
            for level in levels:
                generation = finished.get((rule, level, prompt, seed))
                if generation is None:
                    if dense is None:
                        dense, _ = draw(model, prompt, seed, "dense", {})
                    clip, summary = draw(
                        model, prompt, seed, "lite", {**options, **at_level(model, what, level)}
                    )
                    error = float((clip - dense).abs().mean() / dense.abs().mean())
                    generation = Generation(
                        *(rule, level, prompt, seed, summary.sparsity, error),
                        sum(call.seconds for call in summary.calls),
                    )
                    with path.open("a") as file:
                        file.write(json.dumps(asdict(generation)) + "\n")
                progress.advance(task)
                yield generation


def at_level(model: Model, what: str, level: float) -> dict[str, object]:
    """A budget decides alone: every tile may go, if the budget can pay for it."""
    threshold = level if what == "threshold" else 0.0
    dense_steps = model.defaults.dense_first_steps
    schedule = saccade.LiteSchedule(threshold, dense_first_steps=dense_steps)
    return {"schedule": schedule, **({} if what == "threshold" else {what: level})}


def draw(
    model: Model, prompt: str, seed: int, method: str, options: dict[str, object]
) -> tuple[Tensor, saccade.Summary]:
    saccade.enable(model.pipeline, method, **options, **(BLOCKS if method == "lite" else {}))
    try:
        clip = model.draw(prompt, seed, Shape(), model.defaults.sampling, lambda _: None)
        return clip, saccade.summary(model.pipeline)
    finally:
        saccade.disable(model.pipeline)


def read(path: Path) -> dict[tuple[str, float, str, int], Generation]:
    """The whole lines of a file; the last one may have been cut off."""
    if not path.exists():
        return {}
    lines = (line for line in path.read_text().split("\n")[:-1] if line)
    return {g.key: g for g in (Generation(**json.loads(line)) for line in lines)}


def sparsity_at(error: float, points: list[Generation]) -> float:
    """Between the two neighbouring levels of one clip; NaN beyond them."""
    ordered = sorted(points, key=lambda point: point.sparsity)
    for below, above in pairwise(ordered):
        if below.error <= error < above.error:
            share = (error - below.error) / (above.error - below.error)
            return below.sparsity + share * (above.sparsity - below.sparsity)
    return math.nan


def table_of(drawn: list[Generation]) -> Table:
    clips = sorted({(g.prompt, g.seed) for g in drawn})
    table = Table(title=f"sparsity at equal error, {len(clips)} clips", box=box.SIMPLE)
    table.add_column("rule")
    for error in ERRORS:
        table.add_column(f"error {error:g}", justify="right")
    for rule in dict.fromkeys(g.rule for g in drawn):
        cells = []
        for error in ERRORS:
            of_clips = [
                sparsity_at(error, [g for g in drawn if g.key[0] == rule and g.key[2:] == clip])
                for clip in clips
            ]
            cells.append("-" if any(map(math.isnan, of_clips)) else spread(of_clips))
        table.add_row(rule, *cells)
    return table


def spread(shares: list[float]) -> str:
    mean = f"{100 * statistics.fmean(shares):.1f} %"
    if len(shares) == 1:
        return mean
    return f"{mean} ± {100 * statistics.stdev(shares) / math.sqrt(len(shares)):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="examples/demo_model")
    parser.add_argument("--prompts", type=int, default=2, help="clips of each rule and level")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES))
    parser.add_argument("--out", type=Path, default=Path("build/lite_rules"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = load_model(arguments.model, find_device(None, ["cpu"]))
    prompts = list(model.defaults.prompts[: arguments.prompts])
    console = Console()
    with Progress(console=console, transient=True) as progress:
        path = arguments.out / "generations.jsonl"
        drawn = list(generations(model, prompts, arguments.rules, path, progress))
    console.print(table_of(drawn))


if __name__ == "__main__":
    main()

"""The command line of the study."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

import saccade
from saccade.demo.load import load_model
from saccade.files import write_atomically

from . import __doc__ as usage
from . import coherence, fields, growth, one_step, rules, segments, times
from .methods import METHODS
from .page import html_of
from .section import Options, Part, Section
from .study import Study

PARTS = {
    "rules": Part(rules.draw, rules.section),
    "times": Part(times.draw, times.section),
    "one_step": Part(one_step.draw, one_step.section),
    "segments": Part(segments.draw, segments.section),
    "growth": Part(growth.draw, growth.section),
    "fields": Part(fields.draw, fields.section),
    "coherence": Part(coherence.draw, coherence.section),
}

FULL = Options(
    clips=4,
    errors=(0.04, 0.02),
    methods=tuple(METHODS),
    frames=(8, 16, 24, 32),
    steps=None,
    pairs=3,
    coherence_clips=2,
)
QUICK = replace(
    FULL,
    clips=1,
    errors=(0.04,),
    methods=("paper", "calibrated, scaled", "pooled"),
    frames=(4, 8),
    steps=(2, 10),
    pairs=1,
    coherence_clips=1,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    given = parser().parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    names = given.parts or list(PARTS)
    options = options_of(given)
    console = Console()
    model = load_model(given.model, torch.device("cpu"))
    with bar(console) as progress:
        task = progress.add_task("", total=len(names), part="", note="")

        def note(text: str) -> None:
            progress.update(task, note=text)

        study = Study(model, given.out, note=note)
        sections: dict[str, Section] = {}
        try:
            for name in names:
                progress.update(task, part=name, note="")
                if not given.report:
                    PARTS[name].draw(study, options)
                if (section := PARTS[name].section(study, options)) is not None:
                    sections[name] = section
                progress.advance(task)
        except KeyboardInterrupt:
            console.print("interrupted; the study goes on from here when it is started again")
            return 130
    show(
        sections,
        given.out,
        shlex.join(["python", "-m", "benchmarks.lite_study", *arguments]),
        console,
    )
    return 0


def options_of(given: argparse.Namespace) -> Options:
    options = QUICK if given.quick else FULL
    changes = {
        "clips": given.clips,
        "errors": given.errors and tuple(given.errors),
        "methods": given.methods and tuple(given.methods),
        "frames": given.frames and tuple(given.frames),
        "steps": given.steps and tuple(given.steps),
        "pairs": given.pairs,
    }
    return replace(options, **{name: value for name, value in changes.items() if value})


def show(sections: dict[str, Section], folder: Path, command: str, console: Console) -> None:
    """Tables to the terminal, everything to the folder."""
    for section in sections.values():
        for table in section.tables:
            console.print(table.for_terminal())
        for name, picture in section.pictures.items():
            write_atomically(folder / f"{name}.svg", picture)
    record = {
        "command": command,
        "saccade": saccade.info(),
        "parts": {name: section.data for name, section in sections.items()},
    }
    write_atomically(folder / "study.json", json.dumps(record, indent=1) + "\n")
    page = folder / "study.html"
    write_atomically(page, html_of(list(sections.values()), command))
    console.print(f"page: {page}", soft_wrap=True)


def part(name: str) -> str:
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(PARTS)}")
    return name


def bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.completed}/{task.total} parts"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[part]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.lite_study",
        description=usage,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    add = made.add_argument
    add("parts", nargs="*", metavar="PART", type=part, help=", ".join(PARTS))
    add("--quick", action="store_true", help="one clip and few methods: minutes")
    add("--report", action="store_true", help="draw nothing, show what was drawn before")
    add("--model", default="examples/demo_model", help="folder of the demo model")
    add("--out", type=Path, default=Path("build/lite_study"))
    add("--threads", type=int, help="threads of torch (default: torch's choice)")
    add("--clips", type=int, help="held-out clips")
    add("--errors", type=float, nargs="+", help="relative L1 errors to compare at")
    add(
        "--methods",
        nargs="+",
        choices=METHODS,
        metavar="NAME",
        help="some of: " + "; ".join(METHODS),
    )
    add("--frames", type=int, nargs="+", help="clip lengths of the growth")
    add("--steps", type=int, nargs="+", help="of one_step: those that are sparse alone")
    add("--pairs", type=int, help="timings of each method")
    return made


if __name__ == "__main__":
    sys.exit(main())

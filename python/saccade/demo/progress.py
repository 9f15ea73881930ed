"""What the terminal shows of a sweep."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ..report import Row
from ..report.table import COLUMNS
from .draw import OnStep, Request


class ProgressBars:
    """One bar for each generation, with the sparsity of the running step; a context manager."""

    def __init__(self, console: Console, generations: int) -> None:
        self._bars = Progress(
            TextColumn("{task.fields[number]}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[sparsity]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._generations = generations
        self._begun = 0

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def begin(self, request: Request) -> OnStep:
        """A bar for a generation; its steps are told to what this returns."""
        steps = request.sampling.steps
        bar = self._bars.add_task(
            _name_of(request), total=steps, number=self._next_number(), sparsity=""
        )

        def on_step(step: int, sparsity: float) -> None:
            self._bars.update(bar, completed=step + 1, sparsity=f"{sparsity:4.0%} skipped")
            if step + 1 == steps:
                self._bars.stop_task(bar)

        return on_step

    def skip(self, request: Request) -> None:
        """A line for a generation that was finished before."""
        number = self._next_number()
        self._bars.console.print(f"{number} {_name_of(request)}: done before", highlight=False)

    def _next_number(self) -> str:
        self._begun += 1
        return f"{self._begun:>{len(str(self._generations))}}/{self._generations}"


def summary_table(rows: Sequence[Row]) -> Table:
    """The averages of a report, for a terminal: 80 columns wide for clips of one length."""
    has_lengths = len({row.tokens for row in rows}) > 1
    shown = [column for column in COLUMNS if has_lengths or column.title != "tokens"]
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=0, show_edge=False)
    for column in shown:
        is_name = column is COLUMNS[0]
        table.add_column(column.title, justify="left" if is_name else "right", no_wrap=is_name)
    for row in rows:
        table.add_row(*(column.text(row) for column in shown))
    return table


def _name_of(request: Request) -> str:
    frames = "" if request.shape.frames is None else f", {request.shape.frames} frames"
    prompt = textwrap.shorten(request.prompt, 24, placeholder="…")
    return f"{prompt}{frames} · {request.label}"

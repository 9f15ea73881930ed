"""What a part of the study hands over: text, tables, pictures and numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.table import Table

from .study import Study


@dataclass(frozen=True)
class TextTable:
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def for_terminal(self) -> Table:
        table = Table(title=self.title, box=box.SIMPLE, padding=(0, 1, 0, 0))
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


@dataclass(frozen=True)
class Section:
    """``pictures``: SVG by name. ``data``: what JSON can hold."""

    title: str
    lead: str
    tables: list[TextTable]
    pictures: dict[str, bytes] = field(default_factory=dict)
    data: Any = None


@dataclass(frozen=True)
class Options:
    """How much is drawn. ``errors``: output errors at which methods are compared, the first one
    first; ``methods``: names; ``frames``: clip lengths of the growth; ``steps``: those that are
    sparse alone, None for all; ``pairs``: timings of each method."""

    clips: int
    errors: tuple[float, ...]
    methods: tuple[str, ...]
    frames: tuple[int, ...]
    steps: tuple[int, ...] | None
    pairs: int
    coherence_clips: int


@dataclass(frozen=True)
class Part:
    """``draw`` measures what is missing; ``section`` shows what there is, None if there is none."""

    draw: Callable[[Study, Options], None]
    section: Callable[[Study, Options], Section | None]

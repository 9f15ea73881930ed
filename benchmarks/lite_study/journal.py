"""Rows that are on disk as soon as they are measured."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar


class Row(Protocol):
    """A dataclass of numbers and texts."""

    @property
    def key(self) -> Hashable:
        """Equal for rows that measure the same thing."""


RowType = TypeVar("RowType", bound=Row)


class Journal(Generic[RowType]):
    """Rows of one type in a file, a line of JSON each: what is there need not be measured again.

    A line that an interruption tore is ignored, and what follows it starts on a new one.
    """

    def __init__(self, path: Path, kind: type[RowType]) -> None:
        self._path = path
        self._rows = {row.key: row for row in _read(path, kind)}

    def __iter__(self) -> Iterator[RowType]:
        return iter(self._rows.values())

    def __contains__(self, row_key: Hashable) -> bool:
        return row_key in self._rows

    def __getitem__(self, row_key: Hashable) -> RowType:
        return self._rows[row_key]

    def add(self, row: RowType) -> RowType:
        """Writes a row; returns it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        is_torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.write(("\n" if is_torn else "") + json.dumps(asdict(row)) + "\n")  # type: ignore[call-overload]
        self._rows[row.key] = row
        return row


def _read(path: Path, kind: type[RowType]) -> Iterator[RowType]:
    if not path.exists():
        return
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            fields: dict[str, Any] = json.loads(text)
            yield kind(**fields)
        except (ValueError, TypeError):
            continue

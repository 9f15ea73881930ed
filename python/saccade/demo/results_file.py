"""The finished generations of a study, kept so that an interrupted one goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..files import write_atomically
from ..report import MaskHistory, Measurement
from .draw import Drawn, Request


class ResultsFile:
    """``folder``/results.jsonl, one line for each generation, and ``folder``/clips.

    A line holds the fingerprint of the model, the request and the measurement; studies with other
    models or settings may share the file. A line that an interruption tore is ignored, and so is a
    generation whose clip is missing or damaged: it is drawn again.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.path = folder / "results.jsonl"
        self._clips = folder / "clips"
        self._fingerprint = fingerprint
        self._measurements = dict(self._read())

    def find(self, request: Request) -> Drawn | None:
        """A finished generation."""
        measurement = self._measurements.get(self._key(request))
        if measurement is None:
            return None
        try:
            with safe_open(self._clip_path(request), framework="pt") as file:
                masks = (file.metadata() or {}).get("masks")
                kept = file.get_tensor("kept") if masks else None
                history = MaskHistory(**json.loads(masks), kept=kept) if masks else None
                return Drawn(file.get_tensor("clip"), measurement, history)
        except (OSError, SafetensorError):
            return None

    def add(self, request: Request, drawn: Drawn) -> None:
        """Stores a finished generation: the clip first, so that a line has its clip."""
        tensors, metadata = {"clip": drawn.clip.contiguous()}, {}
        if drawn.masks is not None:
            fields = dict(vars(drawn.masks))
            tensors["kept"] = fields.pop("kept")
            metadata["masks"] = json.dumps(fields)
        write_atomically(self._clip_path(request), save(tensors, metadata))
        line = {
            "model": self._fingerprint,
            "request": asdict(request),
            "measurement": asdict(drawn.measurement),
        }
        # What follows a torn line starts on a new one.
        is_torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if is_torn else "") + json.dumps(line) + "\n")
        self._measurements[self._key(request)] = drawn.measurement

    def _read(self) -> Iterator[tuple[str, Measurement]]:
        if not self.path.exists():
            return
        for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
                key = _key_of(line["model"], line["request"])
                yield key, Measurement(**line["measurement"])
            except (ValueError, KeyError, TypeError):
                continue

    def _key(self, request: Request) -> str:
        return _key_of(self._fingerprint, asdict(request))

    def _clip_path(self, request: Request) -> Path:
        name = hashlib.sha256(self._key(request).encode()).hexdigest()[:24]
        return self._clips / f"{name}.safetensors"


def _key_of(fingerprint: str, request: dict) -> str:
    return json.dumps([fingerprint, request], sort_keys=True)

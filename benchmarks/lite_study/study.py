"""The clips of the study: drawn once with each method and level, and found again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

import saccade
from saccade.demo.models import Model, Sampling, Shape
from saccade.files import write_atomically

from .journal import Journal
from .methods import Method

# What calibration sees; the shipped schedule was made from it too. No held-out clip has its prompt.
TRAINING_PROMPT, TRAINING_SEED = "triangle magenta plain left checks", 103


@dataclass(frozen=True)
class Clip:
    """Noise and prompt. ``frames``: None is what the model was trained on."""

    prompt: str
    seed: int
    frames: int | None = None


@dataclass(frozen=True)
class Generation:
    """One clip drawn with one method at one level.

    ``error``: relative L1 distance from the dense clip, mean |x - dense| / mean |dense|.
    ``seconds``: of all self-attention, choosing tiles included.
    """

    model: str
    steps: int
    tokens: int
    prompt: str
    seed: int
    method: str
    level: float
    sparsity: float
    error: float
    seconds: float
    commit: str

    @property
    def clip(self) -> tuple[str, int, int]:
        return self.prompt, self.seed, self.tokens

    @property
    def key(self) -> tuple:
        return self.model, self.steps, *self.clip, self.method, self.level


class Study:
    """A model, and a folder with everything that was drawn with it.

    ``note(text)`` is told what is being drawn. ``sampling`` and ``shape`` are the model's own where
    they are not given.
    """

    def __init__(
        self,
        model: Model,
        folder: Path,
        *,
        sampling: Sampling | None = None,
        shape: Shape | None = None,
        note: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.model = model
        self.folder = folder
        self.sampling = sampling or model.defaults.sampling
        self.note = note
        self.commit: str = saccade.info()["commit"]
        self.generations = Journal(folder / "generations.jsonl", Generation)
        self._shape = shape or Shape()

    def held_out(self, count: int, frames: int | None = None) -> list[Clip]:
        prompts = [p for p in self.model.defaults.prompts if p != TRAINING_PROMPT]
        return [Clip(prompt, seed, frames) for seed, prompt in enumerate(prompts[:count])]

    def draw(self, clip: Clip, method: Method, level: float) -> Generation:
        key = *self._identity(clip), method.name, level
        if key in self.generations:
            return self.generations[key]
        dense = self.dense(clip)
        arguments = method.arguments(self, level)
        self.note(f"{clip.prompt} · {method.name} {level:g}")
        drawn, summary = self.draw_with(clip, **arguments)
        return self._keep(clip, method.name, level, relative_l1(drawn, dense), summary)

    def drawn(self, clip: Clip, method: Method) -> list[Generation]:
        """What there is of a clip and a method, in the order of the method's levels."""
        keys = ((*self._identity(clip), method.name, level) for level in method.levels)
        return [self.generations[key] for key in keys if key in self.generations]

    def dense(self, clip: Clip) -> Tensor:
        path = self._path("dense", clip)
        try:
            return load_file(path)["clip"]
        except (OSError, SafetensorError):
            self.note(f"{clip.prompt} · dense")
            drawn, summary = self.draw_with(clip, method="dense")
            self._keep(clip, "dense", 0.0, 0.0, summary)
            write_atomically(path, save({"clip": drawn.contiguous()}))
            return drawn

    def dense_seconds(self, clip: Clip) -> float:
        """Of the dense clip, which has been drawn."""
        return self.generations[(*self._identity(clip), "dense", 0.0)].seconds

    def draw_with(self, clip: Clip, **arguments: Any) -> tuple[Tensor, saccade.Summary]:
        """The clip, and its summary, with these arguments of saccade.enable. Nothing is kept."""
        pipeline = self.model.pipeline
        saccade.enable(pipeline, **arguments)
        try:
            drawn = self.model.draw(
                clip.prompt, clip.seed, self.shape_of(clip), self.sampling, lambda _step: None
            )
            return drawn, saccade.summary(pipeline)
        finally:
            saccade.disable(pipeline)

    def calibrated(self, name: str, **arguments: Any) -> saccade.LiteSchedule:
        """saccade.calibrate on the training clip; kept as schedules/NAME.json."""
        clip = Clip(TRAINING_PROMPT, TRAINING_SEED)
        path = self._path(f"schedules/{name}", clip).with_suffix(".json")
        if path.exists():
            return saccade.LiteSchedule.load(path)
        self.note(f"calibrating: {name}")

        def run(_pipeline: Any, seed: int) -> None:
            shape = self.shape_of(clip)
            self.model.draw(clip.prompt, seed, shape, self.sampling, lambda _step: None)

        schedule = saccade.calibrate(
            self.model.pipeline, run, seed=clip.seed, progress=False, **arguments
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        schedule.save(path)
        return schedule

    def shape_of(self, clip: Clip) -> Shape:
        return Shape(clip.frames or self._shape.frames, self._shape.height, self._shape.width)

    def tokens(self, clip: Clip) -> int:
        return self.model.tokens(self.shape_of(clip))

    @property
    def dense_first_steps(self) -> int:
        return self.model.defaults.dense_first_steps

    def _identity(self, clip: Clip) -> tuple:
        steps, tokens = self.sampling.steps, self.tokens(clip)
        return self.model.fingerprint, steps, clip.prompt, clip.seed, tokens

    def _keep(
        self, clip: Clip, method: str, level: float, error: float, summary: saccade.Summary
    ) -> Generation:
        return self.generations.add(
            Generation(
                model=self.model.fingerprint,
                steps=self.sampling.steps,
                tokens=self.tokens(clip),
                prompt=clip.prompt,
                seed=clip.seed,
                method=method,
                level=level,
                sparsity=summary.sparsity,
                error=error,
                seconds=summary.seconds,
                commit=self.commit,
            )
        )

    def _path(self, kind: str, clip: Clip) -> Path:
        identity = repr(self._identity(clip)).encode()
        return self.folder / kind / f"{hashlib.sha256(identity).hexdigest()[:16]}.safetensors"


def relative_l1(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().sum() / wanted.abs().sum())

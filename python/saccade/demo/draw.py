"""One generation: the clip, and everything measured while it was drawn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import saccade

from ..adapters.fingerprint import text_of
from ..errors import InvalidArgument
from ..report import MaskHistory, Measurement
from ..space_time import Box, require_token_order
from . import quality
from .calls import CallTable, table_of
from .mask_recorder import MaskRecorder
from .models import Model, Sampling, Shape
from .moving_shapes import Prompt
from .random_tiles import RandomTiles, kept_tiles

OnStep = Callable[[int, float], None]


@dataclass(frozen=True)
class Request:
    """What to draw, and with which attention: "dense", "lite", "calibrated" or "random".

    ``threshold`` is that of "lite"; for "random" it names the generation whose number of tiles is
    kept. "lite" computes every tile in the first ``dense_first_steps``; "calibrated" is
    LiteAttention with the schedule of the model. ``token_order`` is that of saccade.enable. Raises
    InvalidArgument for a threshold that is no number at most 0, for a negative number of steps and
    for an order that does not exist.
    """

    method: str
    threshold: float | None
    prompt: str
    seed: int
    shape: Shape
    sampling: Sampling
    dense_first_steps: int
    block_q: int
    block_k: int
    token_order: str | Box = "frames"

    def __post_init__(self) -> None:
        if self.method not in ("dense", "lite", "calibrated", "random"):
            raise InvalidArgument(
                f"method must be dense, lite, calibrated or random, got {self.method!r}"
            )
        if (self.method in ("lite", "random")) == (self.threshold is None):
            raise InvalidArgument(
                f"lite and random need a threshold and the others have none, got {self.method} "
                f"with {self.threshold}"
            )
        if self.threshold is not None:
            self.schedule()  # refuses an illegal one
        saccade.TileGrid(1, 1, 1, 1, self.block_q, self.block_k)  # and block sizes
        require_token_order(self.token_order)

    def schedule(self) -> saccade.LiteSchedule:
        """Of "lite"."""
        return saccade.LiteSchedule(self.threshold, dense_first_steps=self.dense_first_steps)

    @property
    def label(self) -> str:
        return self.method if self.threshold is None else f"{self.method} {self.threshold:g}"


@dataclass(frozen=True)
class Drawn:
    """A clip float32 [3, frames, height, width], values in 0 to 1, and how it came about."""

    clip: Tensor
    measurement: Measurement
    masks: MaskHistory | None


def draw(
    model: Model,
    request: Request,
    *,
    dense_clip: Tensor | None = None,
    like: Measurement | None = None,
    keeps_masks: bool = False,
    on_step: OnStep = lambda step, sparsity: None,
) -> Drawn:
    """Draws one clip and measures it.

    ``dense_clip`` is what its quality is measured against; without it there is none. ``like`` is
    the generation whose number of tiles "random" keeps. ``on_step(i, sparsity)`` follows the
    denoising steps. The attention of the model is as before when this returns or raises.
    """
    with enabled(model, request, like):
        recorder = MaskRecorder(request.sampling.steps) if keeps_masks else None

        def after(step: int) -> None:
            summary = saccade.summary(model.pipeline)
            on_step(step, _sparsity_of_step(summary, step))
            if recorder is not None:
                recorder.record(summary)

        begin = time.perf_counter()
        clip = model.draw(request.prompt, request.seed, request.shape, request.sampling, after)
        seconds = time.perf_counter() - begin
        calls = table_of(saccade.summary(model.pipeline))
    masks = recorder.history(request.label, request.prompt) if recorder is not None else None
    return Drawn(clip, _measurement(model, request, calls, seconds, clip, dense_clip), masks)


def mismatch_of(schedule: saccade.LiteSchedule, model: Model, request: Request) -> str | None:
    """How generations like this one differ from what the schedule was calibrated for."""
    here = saccade.Fingerprint(
        length=model.tokens(request.shape),
        steps=request.sampling.steps,
        block_q=request.block_q,
        block_k=request.block_k,
        token_order=text_of(request.token_order),
    )
    try:
        (schedule.fingerprint or saccade.Fingerprint()).require_match(here)
    except InvalidArgument as error:
        return str(error)
    return None


@contextmanager
def enabled(model: Model, request: Request, like: Measurement | None = None) -> Iterator[None]:
    """The model with the attention of a request; "random" needs ``like``."""
    method, options = _method_of(model, request, like)
    saccade.enable(model.pipeline, method, token_order=request.token_order, **options)
    try:
        yield
    finally:
        saccade.disable(model.pipeline)


def _method_of(
    model: Model, request: Request, like: Measurement | None
) -> tuple[Any, dict[str, Any]]:
    blocks = {"block_q": request.block_q, "block_k": request.block_k}
    if request.method == "calibrated":
        return "lite", {"schedule": model.schedule, **blocks}
    if request.method == "lite":
        return "lite", {"schedule": request.schedule(), **blocks}
    if like is not None:
        return RandomTiles(kept_tiles(like), seed=request.seed, **blocks), {}
    return "dense", {}


def _measurement(
    model: Model,
    request: Request,
    calls: CallTable,
    seconds: float,
    clip: Tensor,
    dense_clip: Tensor | None,
) -> Measurement:
    classifier = model.classifier
    return Measurement(
        method=request.method,
        threshold=request.threshold,
        prompt=request.prompt,
        seed=request.seed,
        frames=clip.shape[1],
        tokens=model.tokens(request.shape),
        steps=request.sampling.steps,
        attention_seconds=calls.seconds,
        total_seconds=seconds,
        branches=calls.branches,
        layers=calls.layers,
        active=calls.active,
        tiles=calls.tiles,
        psnr=None if dense_clip is None else quality.psnr(clip, dense_clip),
        ssim=None if dense_clip is None else quality.ssim(clip, dense_clip),
        flicker=quality.flicker(clip),
        wanted=Prompt.parse(request.prompt).kind if classifier is not None else None,
        recognised=classifier.recognise(clip) if classifier is not None else None,
    )


def _sparsity_of_step(summary: saccade.Summary, step: int) -> float:
    shares = [call.sparsity for call in summary.calls if call.step == step]
    return statistics.fmean(shares)

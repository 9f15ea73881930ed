"""What happens only once, done before anything is timed."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from .draw import Request, enabled
from .models import Model, Sampling


@dataclass(frozen=True)
class NativeComparison:
    """Seconds of a generation of one step, with diffusers' own attention and with saccade's."""

    native_seconds: float
    dense_seconds: float


def warm_up(model: Model, request: Request) -> NativeComparison:
    """Draws one step twice with either attention, and times the second."""
    one_step = replace(
        request, method="dense", threshold=None, sampling=Sampling(1, request.sampling.guidance)
    )
    return NativeComparison(
        native_seconds=_second_run(model, one_step, nullcontext()),
        dense_seconds=_second_run(model, one_step, enabled(model, one_step)),
    )


def _second_run(model: Model, request: Request, attention: AbstractContextManager[None]) -> float:
    with attention:
        for _ in range(2):
            begin = time.perf_counter()
            model.draw(
                request.prompt, request.seed, request.shape, request.sampling, lambda step: None
            )
    return time.perf_counter() - begin

"""Which generations are compared, and drawing them one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .draw import Drawn, OnStep, Request, draw
from .models import Model
from .results_file import ResultsFile

MASKED_CLIPS = 1  # of a sweep, the ones whose tile masks are kept


@dataclass(frozen=True)
class Sweep:
    """Every prompt dense, with LiteAttention at each threshold, and perhaps with random tiles.

    ``has_calibrated``: also with the schedule of the model.

    ``long_frames``: the first ``long_clips`` prompts are drawn again with so many frames, without
    random tiles.
    """

    prompts: tuple[str, ...]
    thresholds: tuple[float, ...]
    has_calibrated: bool = False
    has_random: bool = False
    long_frames: tuple[int, ...] = ()
    long_clips: int = 2

    def requests(self, first: Request) -> Iterator[Request]:
        """In an order in which each generation follows those that it is compared with.

        ``first`` gives the seed of the first prompt, and all that the generations have in common.
        """
        methods = ("lite", "random") if self.has_random else ("lite",)
        for index, prompt in enumerate(self.prompts):
            clip = replace(first, prompt=prompt, seed=first.seed + index)
            yield from _of_one_clip(clip, self.thresholds, methods)
            if self.has_calibrated:
                yield replace(clip, method="calibrated", threshold=None)
        for frames in self.long_frames:
            shape = replace(first.shape, frames=frames)
            for index, prompt in enumerate(self.prompts[: self.long_clips]):
                clip = replace(first, prompt=prompt, seed=first.seed + index, shape=shape)
                yield from _of_one_clip(clip, self.thresholds, ("lite",))


class Watcher(Protocol):
    """Follows a sweep."""

    def begin(self, request: Request) -> OnStep:
        """A generation begins; its steps are told to what this returns."""

    def skip(self, request: Request) -> None:
        """A generation was found finished."""


def run_sweep(
    model: Model, requests: Sequence[Request], watcher: Watcher, results: ResultsFile | None
) -> list[Drawn]:
    """Draws what ``requests`` ask for, but what ``results`` already has; adds the rest to it."""
    masked = _first_clips(requests)
    finished: dict[Request, Drawn] = {}
    for request in requests:
        drawn = results.find(request) if results is not None else None
        if drawn is not None:
            watcher.skip(request)
        else:
            drawn = _draw_one(model, request, finished, masked, watcher.begin(request))
            if results is not None:
                results.add(request, drawn)
        finished[request] = drawn
    return list(finished.values())


def _draw_one(
    model: Model,
    request: Request,
    finished: dict[Request, Drawn],
    masked: set[tuple[str, int]],
    on_step: OnStep,
) -> Drawn:
    dense = finished.get(replace(request, method="dense", threshold=None))
    like = finished[replace(request, method="lite")] if request.method == "random" else None
    is_masked = request.method == "lite" and (request.prompt, request.seed) in masked
    return draw(
        model,
        request,
        dense_clip=None if dense is None else dense.clip,
        like=None if like is None else like.measurement,
        keeps_masks=is_masked and request.shape == next(iter(finished)).shape,
        on_step=on_step,
    )


def _of_one_clip(
    clip: Request, thresholds: Sequence[float], methods: Sequence[str]
) -> Iterator[Request]:
    yield replace(clip, method="dense", threshold=None)
    for threshold in thresholds:
        for method in methods:
            yield replace(clip, method=method, threshold=threshold)


def _first_clips(requests: Sequence[Request]) -> set[tuple[str, int]]:
    clips = list(dict.fromkeys((request.prompt, request.seed) for request in requests))
    return set(clips[:MASKED_CLIPS])

"""saccade.calibrate: a schedule for a model of diffusers, from one dense generation."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .. import _ops
from ..calibration import CalibratedLayer, ErrorLayer, ObservingLayer, Setting, errors_of, sums_of
from ..errors import InvalidArgument, Unsupported, call
from ..lite import LiteAttention
from ..lite_schedule import (
    DEFAULT_THRESHOLD,
    CalibrationRecord,
    Fingerprint,
    LayerErrors,
    LayerThresholds,
    LiteSchedule,
    Verification,
)
from ..space_time import Box
from . import disable, enable, summary
from .enabled import load_hooks
from .fingerprint import scheduled_steps
from .methods import pattern_of

Run = Callable[[Any, int], Any] | Mapping[str, Any]

_ERROR = 0.075  # the paper's xi
# Of the search, beside the dense call and in units of it: together with the rest of the model, a
# calibration takes less than 4 times a dense generation.
_MOST_WORK = 2.5
_OPTIONS = ("measure", "reference", "order", "block_q", "block_k")
_WITHOUT_THRESHOLDS: dict[str, Any] = {
    "threshold": DEFAULT_THRESHOLD,
    "thresholds": (),
    "head_thresholds": (),
    "layer_thresholds": (),
    "fingerprint": None,
    "calibration": None,
}


def calibrate(
    model: Any,
    run: Run,
    *,
    error: float | Sequence[float] | None = None,
    slope: float = 0.01,
    sparsity: float | None = None,
    speedup: float | None = None,
    schedule: LiteSchedule | None = None,
    seed: int = 0,
    verify_with: Sequence[int] = (),
    by_head: bool = True,
    token_order: str | Box = "frames",
    progress: bool = True,
    **options: Any,
) -> LiteSchedule:
    """A schedule of LiteAttention for this model, shape and number of steps.

        arguments = {"prompt": "a fox", "num_frames": 81}
        schedule = saccade.calibrate(pipeline, arguments, verify_with=[1])
        schedule.save("fox.json")
        saccade.enable(pipeline, schedule=schedule)

    The model runs once, with dense attention; beside each call the thresholds of the step before
    are tried, which takes at most 2.5 times the attention of that run (docs/calibration.md).

    Args:
        model: as for saccade.enable, with one transformer; not enabled.
        run: ``run(model, seed)`` draws one sample; or the arguments of a pipeline, which is called
            with them and a ``generator`` of the seed.
        error: what a layer's output may differ from dense attention on the same inputs at each
            step, as relative L1: one for each step, or a level, of which the first third of the
            steps gets ``slope`` less and the last third ``slope`` more. Default 0.075.
        sparsity: instead, the share of all tiles to skip, by one threshold. Approximate.
        speedup: instead, of attention over dense attention, by one threshold, from the time that a
            random half of the tiles takes on this machine. Approximate.
        schedule: says what is dense and which tokens are special; its thresholds are not used.
            Default: the first step is dense. For a transformer without pipeline, and ``error`` as
            a level, it must have ``num_steps``.
        seed: of the dense run.
        verify_with: other seeds. With each the model runs dense and with the new schedule, and how
            far they are apart goes into the ``calibration`` of the schedule.
        by_head: each head keeps the error with thresholds of its own; else one for all heads.
        token_order: as for saccade.enable.
        progress: shows a bar of the denoising steps.
        **options: ``measure``, ``reference``, ``order``, ``block_q`` and ``block_k``, as for
            LiteAttention.

    The schedule has a fingerprint, which saccade.enable checks. Raises InvalidArgument, or
    Unsupported as saccade.enable does; the model is left as it was.
    """
    if sum(x is not None for x in (error, sparsity, speedup)) > 1:
        raise InvalidArgument("give one of error, sparsity and speedup, not several")
    prefix, transformer = _only_transformer(model)
    rule = _rule_of(options)
    base = dataclasses.replace(schedule or LiteSchedule(), **_WITHOUT_THRESHOLDS)
    target_of = _Targets(model, base.num_steps, _ERROR if error is None else error, slope)
    layers: dict[str, CalibratedLayer] = {}

    with _progress_bar(progress, model, 1 + 2 * len(verify_with)) as on_step:
        names = ("measure", "reference", "order", "block_q", "block_k")
        setting = Setting(base, *(getattr(rule, name) for name in names), on_step)

        def make(path: str) -> CalibratedLayer:
            if sparsity is not None or speedup is not None:
                layers[path] = ObservingLayer(path, setting)
            else:
                layers[path] = ErrorLayer(path, setting, target_of, by_head, _MOST_WORK)
            return layers[path]

        with _enabled(model, make, token_order):
            base.dense_among(list(layers))  # refuses patterns of no layer
            _generate(model, run, seed)
            fingerprint = _fingerprint(model, transformer, token_order, rule, layers)
        if sparsity is None and speedup is None:
            found = _by_error(layers, prefix, by_head, target_of.all)
        else:
            found = _by_threshold(layers, sparsity, speedup)
        made = dataclasses.replace(
            base, num_steps=fingerprint.steps, fingerprint=fingerprint, **found
        )
        verification = tuple(
            _verify(model, run, other, made, token_order, on_step) for other in verify_with
        )
    tiles = sum(layer.tiles for layer in layers.values())
    record = dataclasses.replace(
        made.calibration,
        seed=seed,
        work=1 + sum(layer.searched for layer in layers.values()) / tiles,
        verification=verification,
    )
    return dataclasses.replace(made, calibration=record)


class _Targets:
    """The error that each step may have, once the number of steps is known."""

    def __init__(
        self, model: Any, num_steps: int, error: float | Sequence[float], slope: float
    ) -> None:
        self._model, self._num_steps = model, num_steps
        self._slope = slope
        self._level = None if isinstance(error, Sequence) else float(error)
        self.all = list(map(float, error)) if isinstance(error, Sequence) else []
        if self._level is not None:
            call(_ops.lite_error_targets, self._level, slope, 1)  # refuses a bad level

    def __call__(self, step: int) -> float:
        if not self.all:
            steps = self._num_steps or scheduled_steps(self._model)
            if steps == 0:
                raise InvalidArgument(
                    "the number of steps is unknown without a pipeline, and thirds of it have "
                    "errors of their own; give schedule=LiteSchedule(num_steps=...)"
                )
            self.all = call(_ops.lite_error_targets, self._level, self._slope, steps)
        if step >= len(self.all):
            raise InvalidArgument(
                f"step is {step}, but error has targets for {len(self.all)} steps"
            )
        return self.all[step]


def _only_transformer(model: Any) -> tuple[str, Any]:
    """With the prefix of its layers' paths."""
    found = load_hooks().transformers_of(model)
    if len(found) > 1:
        names = " and ".join(prefix.rstrip(".") for prefix in found)
        raise Unsupported(
            f"calibration is for one transformer, but the pipeline has {names}; give it one of "
            "them, and a run that calls the pipeline"
        )
    return next(iter(found.items()))


def _rule_of(options: Mapping[str, Any]) -> LiteAttention:
    for option in options:
        if option not in _OPTIONS:
            raise InvalidArgument(
                f"there is no option {option!r}; those of the rule are {', '.join(_OPTIONS)}"
            )
    return LiteAttention(**options)


@contextmanager
def _enabled(model: Any, method: Any, token_order: str | Box, **options: Any) -> Iterator[None]:
    enable(model, method, token_order=token_order, **options)
    try:
        yield
    finally:
        disable(model)


@torch.no_grad()
def _generate(model: Any, run: Run, seed: int) -> None:
    if isinstance(run, Mapping):
        model(**run, generator=torch.Generator().manual_seed(seed))
    else:
        run(model, seed)


def _fingerprint(
    model: Any,
    transformer: Any,
    token_order: str | Box,
    rule: LiteAttention,
    layers: Mapping[str, CalibratedLayer],
) -> Fingerprint:
    called = [layer for layer in layers.values() if layer.tiles > 0]
    if not called:
        raise InvalidArgument("run did not call the model, so there is nothing to calibrate")
    return dataclasses.replace(
        load_hooks().fingerprint_of(model, token_order),
        heads=called[0].heads,
        head_dim=called[0].head_dim,
        length=called[0].length,
        steps=len(load_hooks().hook_of(transformer).trajectory.sigmas),
        **rule.facts,
    )


def _by_error(
    layers: Mapping[str, Any], prefix: str, by_head: bool, targets: Sequence[float]
) -> dict[str, Any]:
    """Fields of the schedule."""
    sparse = {path: layer for path, layer in layers.items() if not layer.is_dense}
    entries = []
    for path, layer in sparse.items():
        pattern, thresholds = "*" + pattern_of(path.removeprefix(prefix)), layer.thresholds()
        entries.append(
            LayerThresholds(pattern, step_head_thresholds=thresholds)
            if by_head
            else LayerThresholds(pattern, thresholds=tuple(step[0] for step in thresholds))
        )
    tiles = sum(layer.tiles for layer in layers.values())
    record = CalibrationRecord(
        target="error",
        targets=tuple(targets),
        sparsity=1 - sum(layer.computed for layer in layers.values()) / tiles,
        layers=tuple(LayerErrors(path, layer.errors()) for path, layer in sparse.items()),
    )
    # What is not listed drops nothing.
    return {
        "threshold": -math.inf,
        "layer_thresholds": tuple(entries),
        "calibration": record,
    }


def _by_threshold(
    layers: Mapping[str, Any], sparsity: float | None, speedup: float | None
) -> dict[str, Any]:
    """Fields of the schedule."""
    if speedup is not None:
        if not speedup >= 1:
            raise InvalidArgument(f"speedup is {speedup}, but must be at least 1")
        efficiency = statistics.median(layer.efficiency() for layer in layers.values())
        sparsity = max(0.0, 1 - 1 / (speedup * efficiency))
    skipped = sum(layer.skipped for layer in layers.values())
    tiles = sum(layer.tiles for layer in layers.values())
    threshold, predicted = call(_ops.lite_choose_threshold, skipped.tolist(), tiles, sparsity)
    record = CalibrationRecord(
        target="sparsity" if speedup is None else "time",
        targets=(sparsity,),
        sparsity=predicted,
    )
    return {"threshold": threshold, "calibration": record}


def _verify(
    model: Any,
    run: Run,
    seed: int,
    made: LiteSchedule,
    token_order: str | Box,
    on_step: Callable[[int], None],
) -> Verification:
    """Runs dense and with the schedule, and compares what the transformer returned."""
    with _enabled(model, "dense", token_order), _outputs(model, on_step) as dense:
        _generate(model, run, seed)
    with (
        _enabled(model, "lite", token_order, schedule=made),
        _outputs(model, on_step) as sparse,
    ):
        _generate(model, run, seed)
        share = summary(model).sparsity
    sums: list[Tensor] = []
    for (step, out), (_, expected) in zip(sparse, dense, strict=True):
        if step == len(sums):
            sums.append(torch.zeros(6, dtype=torch.float64))
        sums[step] += sums_of(out, expected)
    return Verification(seed, share, errors_of(sums))


@contextmanager
def _outputs(model: Any, on_step: Callable[[int], None]) -> Iterator[list[tuple[int, Tensor]]]:
    """What the transformer of an enabled model returns, with the step of each call."""
    _, transformer = _only_transformer(model)
    trajectory = load_hooks().hook_of(transformer).trajectory
    found: list[tuple[int, Tensor]] = []

    def keep(_module: Any, _arguments: Any, output: Any) -> None:
        step = len(trajectory.sigmas) - 1
        on_step(step)
        if step < len({number for number, _ in found}) - 1:
            found.clear()  # another generation
        found.append((step, output[0].detach().cpu()))

    handle = transformer.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def _progress_bar(is_shown: bool, model: Any, generations: int) -> Iterator[Callable[[int], None]]:
    """Counts denoising steps; yields what is told the step of each call."""
    from tqdm.auto import tqdm  # diffusers brings it

    last = -1
    with tqdm(desc="calibrating", unit="step", disable=not is_shown) as bar:

        def on_step(step: int) -> None:
            nonlocal last
            if step == last:
                return
            last = step
            bar.total = generations * scheduled_steps(model) or None
            bar.update()

        yield on_step

"""LiteAttention's schedule: when every tile is computed, and which tiles are dropped.

The fields, their JSON and how they are resolved are those of C++ (saccade/lite_schedule.h), which
validates and resolves here too; docs/schedules.md describes them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _ops
from .errors import FileError, InvalidArgument, call
from .files import read_bytes, write_atomically

DEFAULT_THRESHOLD = -8.0
_VERSION = 1

TokenRanges = tuple[tuple[int, int], ...]


class StepPlan(NamedTuple):
    """Whether a step computes every tile, and its thresholds: one, or one for each query head."""

    is_dense: bool
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class LayerThresholds:
    """Thresholds of the layers that a pattern matches; exactly one of the last four is given.

    ``step_head_thresholds``: entry [i][h] is that of step i and query head h.
    """

    layers: str
    threshold: float | None = None
    thresholds: tuple[float, ...] = ()
    head_thresholds: tuple[float, ...] = ()
    step_head_thresholds: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        _convert(self, _optional_float, "threshold")
        _convert(self, _floats, "thresholds", "head_thresholds")
        _convert(self, lambda steps: tuple(map(_floats, steps)), "step_head_thresholds")


@dataclass(frozen=True)
class Fingerprint:
    """What a schedule was made for. An empty text and a 0 mean "unknown"."""

    model: str = ""
    layers: int = 0
    heads: int = 0
    head_dim: int = 0
    length: int = 0
    steps: int = 0
    rule: str = ""
    measure: str = ""
    reference: str = ""
    order: str = ""
    block_q: int = 0
    block_k: int = 0
    token_order: str = ""
    saccade_version: str = ""

    def require_match(self, other: Fingerprint) -> None:
        """Raises InvalidArgument with every field that both know and that differs."""
        one, two = (bytes_of(LiteSchedule(fingerprint=x).to_json()) for x in (self, other))
        call(_ops.lite_require_match, one, two)


@dataclass(frozen=True)
class StepErrors:
    """How far outputs lay from those of dense attention; entry i of each is of step i.

    ``relative_l1``: |out - dense|_1 / |dense|_1. ``rmse``: root mean square of the difference over
    that of dense. ``cosine``: similarity of the two.
    """

    relative_l1: tuple[float, ...] = ()
    rmse: tuple[float, ...] = ()
    cosine: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _convert(self, _floats, "relative_l1", "rmse", "cosine")


@dataclass(frozen=True)
class LayerErrors:
    """The errors of one layer on the inputs of the dense trajectory."""

    layer: str = ""
    errors: StepErrors = field(default_factory=StepErrors)

    def __post_init__(self) -> None:
        _convert(self, _of(StepErrors), "errors")


@dataclass(frozen=True)
class Verification:
    """A generation with a schedule, of a seed that it was not made from, beside the dense one.

    ``sparsity``: skipped share of all tiles. ``errors``: of what the model returned at each step,
    accumulated along its own trajectory.
    """

    seed: int = 0
    sparsity: float = 0.0
    errors: StepErrors = field(default_factory=StepErrors)

    def __post_init__(self) -> None:
        _convert(self, _of(StepErrors), "errors")


@dataclass(frozen=True)
class CalibrationRecord:
    """How saccade.calibrate found a schedule.

    ``target``: "error", "sparsity" or "time". ``targets``: of each step for an error, else the
    share of tiles to skip. ``seed``: of the dense generation. ``sparsity``: of that generation, as
    found (error) or predicted. ``work``: tiles computed by all attention calls, as a multiple of
    those of the dense generation. ``layers``: on the dense trajectory. ``verification``: on
    held-out seeds.
    """

    target: str = ""
    targets: tuple[float, ...] = ()
    seed: int = 0
    sparsity: float = 0.0
    work: float = 0.0
    layers: tuple[LayerErrors, ...] = ()
    verification: tuple[Verification, ...] = ()

    def __post_init__(self) -> None:
        _convert(self, _floats, "targets")
        _convert(self, _tuple_of(LayerErrors), "layers")
        _convert(self, _tuple_of(Verification), "verification")


@dataclass(frozen=True)
class ScheduleTable:
    """What a schedule says about the layers and steps of a generation; ``str()`` makes a table.

    ``plans`` is [layer][step]; ``sigmas`` is empty where they are unknown.
    """

    layers: tuple[str, ...]
    sigmas: tuple[float, ...]
    plans: tuple[tuple[StepPlan, ...], ...]
    text: str = field(repr=False)

    def __str__(self) -> str:
        return self.text.rstrip("\n")


@dataclass(frozen=True)
class LiteSchedule:
    """When everything is computed, and from which score on a computed tile is dropped.

    Thresholds are at most 0, in log2 units: a tile is dropped once no softmax weight in it exceeds
    2^threshold, measured against the running row maximum (eq. 7 of the paper, eps = -threshold *
    ln 2). Closer to 0 drops more; -inf drops nothing. The most specific that is given wins: of the
    layer (the last entry of ``layer_thresholds`` whose pattern matches), of the step or head, of
    all.

    Patterns match whole paths: ``*`` is any characters, ``?`` one, ``[0-3]`` one of these.

    ``threshold``: of all; ``thresholds``: one for each step; ``head_thresholds``: one for each
    query head, instead of ``thresholds``; ``layer_thresholds``: by layer.
    ``dense_first_steps``, ``dense_last_steps``: steps that compute every tile; they mark like any
    other. The last ones need ``num_steps``, the steps of a generation (0 = unknown).
    ``dense_first_sigma``, ``dense_last_sigma``: dense while sigma, the timestep over the number of
    training timesteps, is at least the one, or less than the other.
    ``dense_layers``: patterns of layers that compute every tile and drop none; ``min_length``: so
    do all layers below this many tokens.
    ``must_do_queries``, ``must_do_keys``, ``must_skip_queries``, ``must_skip_keys``: half-open
    (begin, end) ranges of tokens that are always, or never, computed; ascending and disjoint. The
    tiles that touch a must-do range are kept, those within a must-skip range left out.
    ``fingerprint``: what the schedule was made for; ``calibration``: how.

    Raises InvalidArgument if these contradict each other, TypeError for what is no number.
    """

    threshold: float = DEFAULT_THRESHOLD
    thresholds: tuple[float, ...] = ()
    dense_first_steps: int = 1
    dense_last_steps: int = 0
    num_steps: int = 0
    _: dataclasses.KW_ONLY
    head_thresholds: tuple[float, ...] = ()
    layer_thresholds: tuple[LayerThresholds, ...] = ()
    dense_first_sigma: float | None = None
    dense_last_sigma: float | None = None
    dense_layers: tuple[str, ...] = ()
    min_length: int = 0
    must_do_queries: TokenRanges = ()
    must_do_keys: TokenRanges = ()
    must_skip_queries: TokenRanges = ()
    must_skip_keys: TokenRanges = ()
    fingerprint: Fingerprint | None = None
    calibration: CalibrationRecord | None = None

    def __post_init__(self) -> None:
        _convert(self, float, "threshold")
        _convert(self, _floats, "thresholds", "head_thresholds")
        _convert(self, _optional_float, "dense_first_sigma", "dense_last_sigma")
        _convert(self, operator.index, "dense_first_steps", "dense_last_steps", "num_steps")
        _convert(self, operator.index, "min_length")
        _convert(self, _texts, "dense_layers")
        _convert(self, _ranges, "must_do_queries", "must_do_keys")
        _convert(self, _ranges, "must_skip_queries", "must_skip_keys")
        _convert(self, _tuple_of(LayerThresholds), "layer_thresholds")
        _convert(self, _of(Fingerprint), "fingerprint")
        _convert(self, _of(CalibrationRecord), "calibration")
        text = json.dumps({"version": _VERSION} | _described(self))
        object.__setattr__(self, "_json", call(_ops.lite_schedule_json, bytes_of(text)))

    def plan(
        self,
        step: int,
        *,
        sigma: float | None = None,
        layer: str = "",
        heads: int = 0,
        length: int = 0,
    ) -> StepPlan:
        """What it says about step ``step`` (from 0) of the layer at path ``layer``.

        ``length``: tokens of the longer of q and k. Raises InvalidArgument for what the schedule
        needs but is not given: ``sigma`` for its dense ranges, ``heads`` for thresholds of heads,
        ``length`` for ``min_length``.
        """
        return _plan(self._json, step, sigma, layer, heads, length)

    def table(
        self,
        layers: Sequence[str],
        *,
        sigmas: Sequence[float] = (),
        num_steps: int = 0,
        heads: int = 0,
        length: int = 0,
    ) -> ScheduleTable:
        """The plans of a generation, for ``print``; its steps are those of ``sigmas``, or
        ``num_steps``, or those that the schedule covers."""
        names = bytes_of(json.dumps(list(layers)))
        found = json.loads(
            call(
                _ops.lite_schedule_table,
                *(bytes_of(self._json), names, list(map(float, sigmas)), num_steps, heads, length),
            )
        )
        plans = tuple(
            tuple(StepPlan(is_dense, _floats(values)) for is_dense, values in steps)
            for steps in found["plans"]
        )
        return ScheduleTable(tuple(layers), _floats(sigmas), plans, found["text"])

    def dense_among(self, layers: Sequence[str]) -> list[str]:
        """Those of the paths that ``dense_layers`` matches.

        Raises InvalidArgument for a pattern of the schedule that matches none of the paths.
        """
        names = bytes_of(json.dumps(list(layers)))
        return json.loads(call(_ops.lite_dense_layers, bytes_of(self._json), names))

    def to_json(self) -> str:
        """The schedule as JSON; ``from_json`` gives it back, bit by bit."""
        return self._json

    @classmethod
    def from_json(cls, text: str | bytes) -> LiteSchedule:
        """Reads what ``to_json`` wrote. Raises InvalidArgument for anything that is no schedule."""
        fields = json.loads(call(_ops.lite_schedule_json, bytes_of(text)))
        del fields["version"]
        return cls(**fields)

    def save(self, path: str | Path) -> None:
        """Writes the JSON to a file, which appears when it is complete."""
        write_atomically(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> LiteSchedule:
        """Reads a file of ``save``. Raises FileError for one that is unreadable or no schedule."""
        try:
            return cls.from_json(read_bytes(path))
        except InvalidArgument as error:
            raise FileError(f"{path}: {error}") from None


# Enough for every layer and step of a generation: its calls are those of the next one.
@lru_cache(maxsize=1 << 14)
def _plan(
    text: str, step: int, sigma: float | None, layer: str, heads: int, length: int
) -> StepPlan:
    is_dense, thresholds = call(
        _ops.lite_plan_step, bytes_of(text), step, sigma, layer, heads, length
    )
    return StepPlan(is_dense, tuple(thresholds))


def bytes_of(text: str | bytes) -> Tensor:
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    return torch.frombuffer(bytearray(data or b" "), dtype=torch.uint8)


def _described(value: Any) -> Any:
    """A field as JSON has it: no field that is absent, and texts for what is not finite."""
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _described(given) for name, given in pairs if given is not None}
    if isinstance(value, tuple):
        return [_described(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _convert(instance: Any, conversion: Any, *names: str) -> None:
    for name in names:
        object.__setattr__(instance, name, conversion(getattr(instance, name)))


def _floats(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))


def _optional_float(value: Any) -> float | None:
    return None if value is None else float(value)


def _texts(values: str | Iterable[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


def _ranges(ranges: Iterable[Sequence[int]]) -> TokenRanges:
    return tuple((operator.index(begin), operator.index(end)) for begin, end in ranges)


def _of(kind: type) -> Callable[[Any], Any]:
    """Makes a ``kind`` of its fields; what is one already, or None, stays."""
    return lambda given: kind(**given) if isinstance(given, Mapping) else given


def _tuple_of(kind: type) -> Callable[[Any], Any]:
    return lambda entries: tuple(map(_of(kind), entries))

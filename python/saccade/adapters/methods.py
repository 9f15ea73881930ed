"""The attention of each layer, from the arguments of saccade.enable."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InvalidArgument
from ..functional import attention, autocast_inputs
from ..lite import LiteAttention, StepStatistics
from ..lite_schedule import LiteSchedule
from ..tile_mask import TileGrid
from . import chosen_tiles, sla_layers
from .chosen_tiles import COMMON_OPTIONS
from .layer import Attention

Factory = Callable[[str], Attention]

_OPTIONS = {
    "lite": (
        "threshold",
        "schedule",
        "block_q",
        "block_k",
        "order",
        "measure",
        "reference",
        "mass_budget",
        "reprobe_period",
        "skips_values",
        "shares_masks",
        "measures_mass",
        "protected_queries",
        "protected_keys",
        "skipped_queries",
        "skipped_keys",
        "dense_layers",
    ),
    "dense": (),
    **{name: (*own, *COMMON_OPTIONS) for name, own in chosen_tiles.OPTIONS.items()},
    "sla": (*sla_layers.OPTIONS, "layers", "dense_layers"),
}


class DenseAttention:
    """saccade.attention over all tiles, with the signature and the statistics of LiteAttention."""

    def __init__(self) -> None:
        self.statistics: list[StepStatistics] = []

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, *, step: int | None, branch: str) -> Tensor:
        out = attention(*autocast_inputs(q, k, v), layout="bshd")
        if step is None:  # activations are recomputed
            return out
        batch, q_len, heads, _ = q.shape
        tiles = math.prod(TileGrid(batch, heads, q_len, k.shape[1]).shape[2:])
        active = torch.full((batch, heads), tiles)
        self.statistics.append(StepStatistics(branch, step, True, -math.inf, active, tiles))
        return out

    def reset(self) -> None:
        self.statistics.clear()


def make_attentions(
    method: str | Factory, options: dict[str, Any], modules: Mapping[str, nn.Module]
) -> dict[str, Attention]:
    """The attention of each self-attention, by path.

    Raises InvalidArgument for an illegal method or option.
    """
    paths = list(modules)
    if isinstance(method, str) and method not in _OPTIONS:
        raise InvalidArgument(
            f"method must be {_nearest_first(method, _OPTIONS)} or a callable, got {method!r}"
        )
    if not isinstance(method, str) and not callable(method):
        raise InvalidArgument(
            f"method must be {', '.join(map(repr, _OPTIONS))} or a callable, got {method!r}"
        )
    _require_known_options(method, options)
    if callable(method):
        return {path: _checked(method(path), path) for path in paths}
    if method == "dense":
        return {path: DenseAttention() for path in paths}
    if method == "sla":
        dense = sla_layers.dense_paths(options, paths)
        sparse = {path: module for path, module in modules.items() if path not in dense}
        return {path: DenseAttention() for path in dense} | sla_layers.make(options, sparse)
    options = dict(options)
    dense_layers = _dense_paths(options.pop("dense_layers", ()), paths)
    if method == "lite":
        given = LiteAttention(layout="bshd", **options).schedule  # refuses bad options
        schedule, dense = _with_dense_layers(given, dense_layers, paths)
        options |= {"schedule": schedule, "threshold": None, "layout": "bshd"}
        make = functools.partial(_lite_attention, options=options)
    else:
        given = chosen_tiles.chosen_schedule(method, options)
        schedule, dense = _with_dense_layers(given, dense_layers, paths)
        make = functools.partial(chosen_tiles.make, method, schedule=schedule, options=options)
    return {
        path: DenseAttention() if path in dense else make(path, number)
        for number, path in enumerate(paths)
    }


def _lite_attention(path: str, _number: int, *, options: dict[str, Any]) -> LiteAttention:
    return LiteAttention(layer=path, **options)


def _with_dense_layers(
    given: LiteSchedule, dense_layers: set[str], paths: Sequence[str]
) -> tuple[LiteSchedule, set[str]]:
    """A schedule with further dense layers, and all that it has."""
    patterns = dict.fromkeys((*given.dense_layers, *map(pattern_of, sorted(dense_layers))))
    schedule = dataclasses.replace(given, dense_layers=tuple(patterns))
    return schedule, set(schedule.dense_among(paths))


def with_schedule(method: str | Factory, options: dict[str, Any]) -> dict[str, Any]:
    """The options with the schedule of a file read, and the rule of its fingerprint.

    Of the rule, what is an option of the method.
    """
    schedule = options.get("schedule")
    if isinstance(schedule, (str, Path)):
        schedule = LiteSchedule.load(schedule)
    if not isinstance(schedule, LiteSchedule) or schedule.fingerprint is None:
        return options if schedule is None else options | {"schedule": schedule}
    names = ("measure", "reference", "order", "block_q", "block_k")
    known = {name: getattr(schedule.fingerprint, name) for name in names}
    legal = () if callable(method) else _OPTIONS.get(method, ())
    rule = {name: value for name, value in known.items() if value and name in legal}
    return rule | options | {"schedule": schedule}


def _require_known_options(method: str | Factory, options: dict[str, Any]) -> None:
    name, legal = ("a callable", ()) if callable(method) else (repr(method), _OPTIONS[method])
    for option in options:
        if option in legal:
            continue
        choices = f"its options are {_nearest_first(option, legal)}" if legal else "it has none"
        raise InvalidArgument(f"method {name} has no option {option!r}; {choices}")


def _checked(made: Any, path: str) -> Attention:
    if not callable(made):
        raise InvalidArgument(
            f"the factory must return a callable for {path}, got {type(made).__name__}"
        )
    return made


def _dense_paths(dense_layers: Any, paths: Sequence[str]) -> set[str]:
    chosen = [dense_layers] if isinstance(dense_layers, (str, int)) else dense_layers
    return {_dense_path(layer, paths) for layer in chosen}


def _dense_path(layer: str | int, paths: Sequence[str]) -> str:
    if isinstance(layer, int) and 0 <= layer < len(paths):
        return paths[layer]
    if isinstance(layer, int):
        raise InvalidArgument(
            f"dense_layers has {layer}, but the self-attentions are 0 to {len(paths) - 1}"
        )
    if layer not in paths:
        raise InvalidArgument(
            f"dense_layers has {layer!r}, which is no self-attention; the {len(paths)} there are: "
            f"{_nearest_first(str(layer), paths)}"
        )
    return layer


def pattern_of(path: str) -> str:
    """The pattern that matches this path alone."""
    return re.sub(r"[*?[]", r"[\g<0>]", path)


def _nearest_first(given: str, legal: Iterable[str]) -> str:
    def distance(name: str) -> float:
        return -difflib.SequenceMatcher(None, given, name).ratio()

    return ", ".join(map(repr, sorted(legal, key=distance)))

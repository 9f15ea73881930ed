"""Dense attention that finds out, along its trajectory, what LiteAttention may skip."""

from __future__ import annotations

import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import _ops, baselines
from .errors import call
from .functional import attention, bounds_of, require_cpu
from .lite import numbers_of
from .lite_schedule import LiteSchedule, StepErrors, StepPlan
from .tile_mask import TileGrid, TileMask


@dataclass(frozen=True)
class Setting:
    """What the calibration of all layers has in common.

    ``schedule`` says which steps and layers are dense, and which tokens are special; its thresholds
    mean nothing. The rest is as for LiteAttention. ``on_step`` is told the step of every call.
    """

    schedule: LiteSchedule
    measure: str
    reference: str
    order: str
    block_q: int
    block_k: int
    on_step: Callable[[int], None]


@dataclass
class _Branch:
    """State of calibrate_step (saccade/calibrate.h) for one guidance branch, and what was found.

    Entry i of the lists is of step i: thresholds of the heads, drawn up a step later; sums of the
    heads' errors, float64 [heads, 6]; tiles computed with these thresholds.
    """

    mask: Tensor
    scores: Tensor
    shares: Tensor
    ref: Tensor | None
    thresholds: list[list[float]] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)
    computed: list[int] = field(default_factory=list)


class CalibratedLayer(ABC):
    """One layer's attention, dense, for saccade.enable; layouts are [batch, length, heads, dim].

    ``tiles`` counts those of all calls, ``searched`` those that were computed besides. ``heads``,
    ``head_dim`` and ``length`` are those of the last call.
    """

    def __init__(self, path: str, setting: Setting) -> None:
        self.path = path
        self.setting = setting
        self.heads = self.head_dim = self.length = 0
        self.reset()

    def reset(self) -> None:
        """A generation begins."""
        self.branches: dict[str, _Branch] = {}
        self.tiles = self.searched = 0

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, *, step: int, branch: str, sigma: float
    ) -> Tensor:
        self.setting.on_step(step)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        require_cpu(q=q, k=k, v=v)
        self.heads, self.head_dim = q.shape[1], q.shape[3]
        self.length = max(q.shape[2], k.shape[2])
        plan = self.setting.schedule.plan(
            step, sigma=sigma, layer=self.path, heads=self.heads, length=self.length
        )
        grid = TileGrid(*q.shape[:3], k.shape[2], self.setting.block_q, self.setting.block_k)
        self.tiles += math.prod(grid.shape)
        if branch not in self.branches:
            self.branches[branch] = self._new_branch(grid, q)
        out = self.attend(q, k, v, step, plan, self.branches[branch])
        return out.transpose(1, 2)

    @property
    def is_dense(self) -> bool:
        """Whether the schedule leaves this layer alone."""
        plan = self.setting.schedule.plan(
            0, sigma=1.0, layer=self.path, heads=self.heads, length=self.length
        )
        return plan.thresholds == (-math.inf,)

    @abstractmethod
    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, step: int, plan: StepPlan, state: _Branch
    ) -> Tensor:
        """Dense attention [batch, heads, length, dim] of one call."""

    def _new_branch(self, grid: TileGrid, q: Tensor) -> _Branch:
        ref = None
        if self.setting.reference == "lse":
            dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
            ref = torch.full(q.shape[:3], math.nan, dtype=dtype)
        mask = TileMask.full(*astuple(grid)).words
        return _Branch(mask, torch.zeros(grid.shape), torch.zeros(grid.heads), ref)

    def _arguments(
        self, q: Tensor, k: Tensor, v: Tensor, step: int, plan: StepPlan, state: _Branch
    ) -> tuple[Any, ...]:
        setting = self.setting
        return (
            *(q, k, v, state.mask, state.scores, state.shares, state.ref),
            *(setting.block_q, setting.block_k, step, plan.is_dense),
            *numbers_of(setting.measure, setting.reference, setting.order),
        )

    @property
    def _ranges(self) -> tuple[list[int], ...]:
        names = ("must_do_queries", "must_do_keys", "must_skip_queries", "must_skip_keys")
        return tuple(bounds_of(getattr(self.setting.schedule, name)) for name in names)


class ErrorLayer(CalibratedLayer):
    """Keeps the relative L1 error of each step within a target.

    ``target_of(step)``; ``by_head``: each head with a threshold of its own. Guidance branches are
    calibrated each for itself, and share the stricter threshold.
    """

    def __init__(
        self,
        path: str,
        setting: Setting,
        target_of: Callable[[int], float],
        by_head: bool,
        most_work: float,
    ) -> None:
        super().__init__(path, setting)
        self._target_of = target_of
        self._by_head = by_head
        self._most_work = most_work

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, step: int, plan: StepPlan, state: _Branch
    ) -> Tensor:
        out, thresholds, errors, computed, searched = call(
            _ops.lite_calibrate_step,
            *self._arguments(q, k, v, step, plan, state),
            *(self._target_of(step), self._by_head, self._most_work),
            *self._ranges,
        )
        if step > 0:
            state.thresholds.append(thresholds)
        state.errors.append(errors)
        state.computed.append(computed)
        self.searched += searched
        return out

    def thresholds(self) -> tuple[tuple[float, ...], ...]:
        """[step][head]; the last step, which none follows, drops nothing."""
        branches = [state.thresholds for state in self.branches.values()]
        chosen = [
            tuple(map(min, zip(*of_branches, strict=True)))
            for of_branches in zip(*branches, strict=True)
        ]
        return (*chosen, (-math.inf,) * self.heads)

    def errors(self) -> StepErrors:
        """Of all heads and branches together."""
        steps = zip(*(state.errors for state in self.branches.values()), strict=True)
        return errors_of([torch.cat(heads).sum(0) for heads in steps])

    @property
    def computed(self) -> int:
        """Tiles that the calls would compute with these thresholds, each branch with its own."""
        return sum(sum(state.computed) for state in self.branches.values())


class ObservingLayer(CalibratedLayer):
    """Counts the tiles that every flat threshold would skip.

    ``skipped``: int64, as saccade::lite::choose_threshold takes it; None before the first call.
    """

    def reset(self) -> None:
        super().reset()
        self.skipped: Tensor | None = None
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, step: int, plan: StepPlan, state: _Branch
    ) -> Tensor:
        out, skipped = call(
            _ops.lite_observe_step,
            *self._arguments(q, k, v, step, plan, state),
            *self._ranges,
        )
        counts = torch.tensor(skipped)
        self.skipped = counts if self.skipped is None else self.skipped + counts
        self._last = q, k, v
        return out

    def efficiency(self) -> float:
        """What a random half of the tiles costs in the last call, at best 1.

        Half the time of dense attention over its own.
        """
        assert self._last is not None
        q, k, v = self._last
        setting = self.setting
        grid = TileGrid(*q.shape[:3], k.shape[2], setting.block_q, setting.block_k)
        half = baselines.random_tiles(grid, 0.5)
        dense_seconds = _median_seconds(lambda: attention(q, k, v))
        half_seconds = _median_seconds(lambda: attention(q, k, v, tiles=half))
        return (1 - half.sparsity()) * dense_seconds / half_seconds


def errors_of(sums: Sequence[Tensor]) -> StepErrors:
    """Of the sums of each step, float64 [6]."""
    errors = call(_ops.lite_errors, torch.stack(list(sums)))
    return StepErrors(*errors.T.tolist())


def sums_of(out: Tensor, dense: Tensor) -> Tensor:
    """Sums of the errors of a whole tensor, float64 [6]."""
    rows = [x.detach().to("cpu").reshape(1, 1, -1, x.shape[-1]) for x in (out, dense)]
    return call(_ops.lite_measure_errors, *rows)[0]


def _median_seconds(run: Callable[[], Any], repetitions: int = 3) -> float:
    run()
    seconds = []
    for _ in range(repetitions):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)

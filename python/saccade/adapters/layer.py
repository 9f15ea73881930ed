"""One self-attention layer: what it computes with, and what it has computed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import InvalidArgument
from .trajectory import Trajectory

Attention = Callable[..., Tensor]


@dataclass(frozen=True)
class AttentionCall:
    """One attention call of one layer.

    ``path``: of the layer, from what was given to saccade.enable. ``step``: from 0. ``seconds``:
    wall time of the attention alone; None on other devices than the CPU. The rest is as in
    LiteAttention's statistics: whether every tile was computed, the threshold that marked tiles
    for later steps (log2 units), ``active`` int64 [batch, heads] of ``tiles`` for each head, and
    the softmax mass that was dropped and kept, if the rule estimates or measures it; None for an
    attention that keeps no statistics.
    """

    path: str
    branch: str
    step: int
    seconds: float | None
    is_dense: bool | None
    threshold: float | None
    active: Tensor | None
    tiles: int | None
    dropped_mass: Tensor | None = None
    kept_mass: Tensor | None = None

    @property
    def sparsity(self) -> float | None:
        """Skipped share of all tiles, 0 to 1; None if unknown."""
        return sparsity_of([self])


def sparsity_of(calls: list[AttentionCall]) -> float | None:
    """Skipped share of all tiles of the calls that know theirs; None if no call does."""
    known = [(c.active, c.tiles) for c in calls if c.active is not None and c.tiles is not None]
    if not known:
        return None
    computed = sum(int(active.sum()) for active, _ in known)
    return 1.0 - computed / sum(active.numel() * tiles for active, tiles in known)


class Layer:
    """Calls the attention of one layer with its step and branch, and keeps a record of each call.

    An attention with a parameter ``sigma`` gets the noise level too, one with ``video`` the
    VideoLayout of its tokens. ``calls`` holds those of the current generation, in training of the
    last call of the transformer; ``heads`` and ``length`` (of the longer of q and k) are those of
    the last.
    """

    def __init__(self, path: str, attention: Attention, trajectory: Trajectory) -> None:
        self.path = path
        self.attention = attention
        self.calls: list[AttentionCall] = []
        self.heads = self.length = 0
        self._trajectory = trajectory
        self._wanted = _wanted_by(attention)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """out, like q [batch, length, heads, head_dim]."""
        step, branch, sigma = self._trajectory.now(self.path)
        self.heads, self.length = q.shape[2], max(q.shape[1], k.shape[1])
        known = {"sigma": sigma, "video": self._trajectory.video}
        wanted = {name: known[name] for name in self._wanted}
        begin = time.perf_counter()
        out = self.attention(q, k, v, step=step, branch=branch, **wanted)
        # Other devices run on after the call has returned.
        seconds = time.perf_counter() - begin if q.device.type == "cpu" else None
        if out.shape != q.shape:
            raise InvalidArgument(
                f"the attention of {self.path} must return the shape of q, {tuple(q.shape)}, "
                f"got {tuple(out.shape)}"
            )
        if step is not None:
            self.calls.append(
                AttentionCall(self.path, branch, step, seconds, *_last_statistics(self.attention))
            )
        return out

    def begin_generation(self) -> None:
        """Forgets the calls, and what the attention keeps between steps."""
        self.calls.clear()
        if hasattr(self.attention, "reset"):
            self.attention.reset()


def _wanted_by(attention: Attention) -> set[str]:
    """Which of sigma and video an attention has parameters for."""
    function = getattr(attention, "forward", attention)  # of a module
    try:
        return {"sigma", "video"} & inspect.signature(function).parameters.keys()
    except ValueError:  # a built-in function has no signature
        return set()


def _last_statistics(attention: Attention) -> tuple[Any, ...]:
    """is_dense, threshold, active, tiles, dropped and kept mass of the call just made."""
    statistics = getattr(attention, "statistics", None)
    if not statistics:
        return (None,) * 6
    last = statistics[-1]
    masses = (getattr(last, name, None) for name in ("dropped_mass", "kept_mass"))
    return last.is_dense, last.threshold, last.active, last.tiles, *masses

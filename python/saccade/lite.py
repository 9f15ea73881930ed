"""LiteAttention (arXiv 2511.11062): negligible tiles are skipped at all later denoising steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from . import _ops
from .errors import InvalidArgument, Unsupported, call
from .functional import Layout, has_length_first, heads_first, require_cpu
from .lite_schedule import DEFAULT_THRESHOLD, LiteSchedule
from .tile_mask import TileGrid, TileMask


@dataclass(frozen=True)
class StepStatistics:
    """What one call computed. ``active``: int64 [batch, heads], tiles; ``tiles``: of each head."""

    branch: str
    step: int
    is_dense: bool
    threshold: float
    active: Tensor
    tiles: int

    @property
    def sparsity(self) -> float:
        """Skipped share of all tiles, 0 to 1."""
        return 1.0 - float(self.active.sum()) / (self.active.numel() * self.tiles)


@dataclass
class _State:
    mask: TileMask
    step: int


class LiteAttention:
    """Attention of one layer over the steps of a denoising trajectory.

        lite = saccade.LiteAttention(threshold=-6.0)
        for step, t in enumerate(timesteps):
            out = lite(q, k, v, step=step, branch="cond")

    Keeps one TileMask for each guidance branch: full at the start of a generation, losing the tiles
    that each step finds negligible. A branch starts anew by itself at step 0, when the step falls,
    and when batch, heads, lengths or device change.

    Args:
        schedule: thresholds, and what is dense. Without it, ``threshold`` (default -8) at every
            step after the first.
        threshold: see LiteSchedule; give either this or ``schedule``.
        layer: path of the layer, for the patterns of the schedule.
        block_q, block_k: tile size, each 64 or 128.
        order: "linear", "reversed", "radial", or "alternating" (linear on even steps, reversed on
            odd ones): the order in which a row visits its tiles. The first one visited is kept.
        protected_queries, protected_keys: half-open (begin, end) ranges of tokens that are never
            skipped, such as text, rounded outward to tiles; those of the schedule come on top.
        scale: logits are scale * q k^T. None is 1 / sqrt(head_dim).
        layout: "bhsd" or "bshd", as for saccade.attention.

    ``statistics`` holds one entry for each call of the current generation. Inference only: calls
    under autograd raise Unsupported, and so do schedules with must-skip ranges and, when they are
    reached, thresholds of heads.
    """

    def __init__(
        self,
        schedule: LiteSchedule | None = None,
        *,
        threshold: float | None = None,
        layer: str = "",
        block_q: int = 128,
        block_k: int = 64,
        order: str = "linear",
        protected_queries: Sequence[tuple[int, int]] = (),
        protected_keys: Sequence[tuple[int, int]] = (),
        scale: float | None = None,
        layout: Layout = "bhsd",
    ) -> None:
        if schedule is not None and threshold is not None:
            raise InvalidArgument("give either schedule or threshold, not both")
        if order not in ("linear", "reversed", "radial", "alternating"):
            raise InvalidArgument(
                f"order must be linear, reversed, radial or alternating, got {order!r}"
            )
        has_length_first(layout)
        TileGrid(1, 1, 1, 1, block_q, block_k)  # refuses other block sizes
        if schedule is None:
            schedule = LiteSchedule(DEFAULT_THRESHOLD if threshold is None else threshold)
        if schedule.must_skip_queries or schedule.must_skip_keys:
            raise Unsupported(
                "the schedule has must_skip ranges, which this build does not skip; leave them out"
            )
        self.schedule = schedule
        self.layer = layer
        self.block_q, self.block_k = block_q, block_k
        self.order = order
        self.protected_queries = (*protected_queries, *schedule.must_do_queries)
        self.protected_keys = (*protected_keys, *schedule.must_do_keys)
        self.scale = scale
        self.layout: Layout = layout
        self.statistics: list[StepStatistics] = []
        self._states: dict[str, _State] = {}

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        step: int | Tensor,
        branch: str = "cond",
        sigma: float | None = None,
        q_lens: Tensor | None = None,
        k_lens: Tensor | None = None,
        return_lse: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of step ``step`` (from 0) of ``branch``; shapes as for saccade.attention.

        ``sigma``: the noise level, in [0, 1], for schedules with dense ranges of sigma.
        """
        if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
            raise Unsupported(
                "LiteAttention has no gradients; call it under torch.no_grad(), or use "
                "saccade.attention with a mask"
            )
        step = int(step)
        q, k, v = heads_first(q, k, v, self.layout)
        require_cpu(q=q, k=k, v=v, q_lens=q_lens, k_lens=k_lens)
        is_dense, threshold = self._plan(q, k, step, sigma)
        state = self._state(q, k, step, branch)
        out, lse, active = call(
            _ops.lite_step,
            *(q, k, v, state.mask.words, q_lens, k_lens, self.scale, self.block_q, self.block_k),
            *(is_dense, threshold, self._order_of(step)),
            *(_bounds(self.protected_queries), _bounds(self.protected_keys)),
        )
        state.step = step
        tiles = math.prod(state.mask.grid.shape[2:])
        self.statistics.append(StepStatistics(branch, step, is_dense, threshold, active, tiles))
        if has_length_first(self.layout):
            out = out.transpose(1, 2)
        return (out, lse) if return_lse else out

    def mask(self, branch: str = "cond") -> TileMask:
        """The tiles that the next sparse step of ``branch`` computes. Not a copy."""
        if branch not in self._states:
            known = ", ".join(map(repr, self._states)) or "none yet"
            raise InvalidArgument(f"no state for branch {branch!r}; branches so far: {known}")
        return self._states[branch].mask

    def reset(self) -> None:
        """Forgets all branches and statistics; the next call of each starts with a full mask."""
        self._states.clear()
        self.statistics.clear()

    def _plan(self, q: Tensor, k: Tensor, step: int, sigma: float | None) -> tuple[bool, float]:
        is_dense, thresholds = self.schedule.plan(
            step,
            sigma=sigma,
            layer=self.layer,
            heads=q.shape[1],
            length=max(q.shape[2], k.shape[2]),
        )
        if len(thresholds) > 1:
            raise Unsupported(
                f"the schedule has {len(thresholds)} thresholds of heads for layer {self.layer!r}, "
                "but this build takes one for all heads"
            )
        return is_dense, thresholds[0]

    def _state(self, q: Tensor, k: Tensor, step: int, branch: str) -> _State:
        grid = TileGrid(*q.shape[:3], k.shape[2], self.block_q, self.block_k)
        state = self._states.get(branch)
        last_grid = [] if state is None else list(astuple(state.mask.grid))
        last_step = 0 if state is None else state.step
        moved = state is not None and state.mask.words.device != q.device
        if moved or call(_ops.lite_must_reset, last_grid, last_step, list(astuple(grid)), step):
            state = _State(TileMask.full(*astuple(grid), device=q.device), step)
            self._states[branch] = state
            self.statistics = [entry for entry in self.statistics if entry.branch != branch]
        assert state is not None
        return state

    def _order_of(self, step: int) -> str:
        if self.order != "alternating":
            return self.order
        return "linear" if step % 2 == 0 else "reversed"


def _bounds(ranges: Sequence[tuple[int, int]]) -> list[int]:
    return [bound for one in ranges for bound in one]

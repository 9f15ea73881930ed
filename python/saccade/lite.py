"""LiteAttention (arXiv 2511.11062): negligible tiles are skipped at all later denoising steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from . import _ops
from .errors import InvalidArgument, Unsupported, call
from .functional import Layout, bounds_of, has_length_first, heads_first, require_cpu
from .tile_mask import TileGrid, TileMask

DEFAULT_THRESHOLD = -8.0


@dataclass(frozen=True)
class LiteSchedule:
    """When everything is computed, and from which score on a computed tile is dropped.

    ``threshold``: at most 0, log2 units. A tile is dropped once no softmax weight in it exceeds
    2^threshold, measured against the running row maximum (eq. 7 of the paper, eps = -threshold *
    ln 2). Closer to 0 drops more; -inf drops nothing.
    ``thresholds``: one for each step, instead of ``threshold``.
    ``dense_first_steps``, ``dense_last_steps``: steps that compute every tile; they mark like any
    other. The last ones need ``num_steps``, the steps of a generation (0 = unknown).

    Raises InvalidArgument if these contradict each other, TypeError for what is no number.
    """

    threshold: float = DEFAULT_THRESHOLD
    thresholds: tuple[float, ...] = ()
    dense_first_steps: int = 1
    dense_last_steps: int = 0
    num_steps: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "threshold", float(self.threshold))
        object.__setattr__(self, "thresholds", tuple(map(float, self.thresholds)))
        self.plan(0)

    def plan(self, step: int) -> tuple[bool, float]:
        """Whether step ``step`` (from 0) is dense, and its threshold."""
        return call(
            _ops.lite_plan_step,
            *(self.threshold, list(self.thresholds), self.dense_first_steps),
            *(self.dense_last_steps, self.num_steps, step),
        )


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
        schedule: thresholds and dense steps. Without it, ``threshold`` (default -8) at every step
            after the first.
        threshold: see LiteSchedule; give either this or ``schedule``.
        block_q, block_k: tile size, each 64 or 128.
        order: "linear", "reversed", "radial", or "alternating" (linear on even steps, reversed on
            odd ones): the order in which a row visits its tiles. The first one visited is kept.
        protected_queries, protected_keys: half-open (begin, end) ranges of tokens that are never
            skipped, such as text, rounded outward to tiles.
        scale: logits are scale * q k^T. None is 1 / sqrt(head_dim).
        layout: "bhsd" or "bshd", as for saccade.attention.

    ``statistics`` holds one entry for each call of the current generation. Inference only: calls
    under autograd raise Unsupported.
    """

    def __init__(
        self,
        schedule: LiteSchedule | None = None,
        *,
        threshold: float | None = None,
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
        self.schedule = schedule
        self.block_q, self.block_k = block_q, block_k
        self.order = order
        self.protected_queries = tuple(protected_queries)
        self.protected_keys = tuple(protected_keys)
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
        q_lens: Tensor | None = None,
        k_lens: Tensor | None = None,
        return_lse: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention of step ``step`` (from 0) of ``branch``; shapes as for saccade.attention."""
        if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
            raise Unsupported(
                "LiteAttention has no gradients; call it under torch.no_grad(), or use "
                "saccade.attention with a mask"
            )
        step = int(step)
        q, k, v = heads_first(q, k, v, self.layout)
        require_cpu(q=q, k=k, v=v, q_lens=q_lens, k_lens=k_lens)
        is_dense, threshold = self.schedule.plan(step)
        state = self._state(q, k, step, branch)
        out, lse, active = call(
            _ops.lite_step,
            *(q, k, v, state.mask.words, q_lens, k_lens, self.scale, self.block_q, self.block_k),
            *(is_dense, threshold, self._order_of(step)),
            *(bounds_of(self.protected_queries), bounds_of(self.protected_keys)),
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

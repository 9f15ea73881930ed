"""LiteAttention (arXiv 2511.11062): negligible tiles are skipped at all later denoising steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from . import _ops
from .branch_state import BranchState, SharedMask, bytes_of
from .errors import InvalidArgument, Unsupported, call
from .functional import Layout, attention, bounds_of, has_length_first, heads_first, require_cpu
from .lite_schedule import DEFAULT_THRESHOLD, Fingerprint, LiteSchedule, StepPlan
from .tile_mask import TileGrid, TileMask

# In the order of their numbers.
MEASURES = ("largest_weight", "largest_mass", "mean_mass")
REFERENCES = ("running", "lse")
ORDERS = ("linear", "reversed", "alternating", "radial", "strongest")


@dataclass(frozen=True)
class StepStatistics:
    """What one call computed.

    ``threshold``: the largest one, where heads have their own. ``active``: int64 [batch, heads],
    tiles; ``tiles``: of each head. ``dropped_mass``: with re-probing, float32 [batch, heads], the
    estimated share of the softmax mass that the tiles dropped so far would have, the mean over rows
    of tiles; it errs on the high side. ``kept_mass``: if it is measured, float32 [batch, heads],
    the share of the softmax mass of dense attention that the computed tiles hold, the mean over
    queries.
    """

    branch: str
    step: int
    is_dense: bool
    threshold: float
    active: Tensor
    tiles: int
    dropped_mass: Tensor | None = None
    kept_mass: Tensor | None = None

    @property
    def sparsity(self) -> float:
        """Skipped share of all tiles, 0 to 1."""
        return 1.0 - float(self.active.sum()) / (self.active.numel() * self.tiles)


@dataclass(frozen=True)
class _StepTaken:
    """A step whose attention is computed, and what its record and its end need."""

    state: BranchState
    branch: str
    plan: StepPlan
    active: Tensor
    kept_mass: Tensor | None
    computed: Tensor
    scores: Tensor
    lengths: tuple[Tensor | None, Tensor | None]


class LiteAttention:
    """Attention of one layer over the steps of a denoising trajectory.

        lite = saccade.LiteAttention(threshold=-6.0)
        for step, t in enumerate(timesteps):
            out = lite(q, k, v, step=step, branch="cond")

    Keeps one TileMask for each guidance branch: full at the start of a generation, losing the tiles
    that each step finds negligible. A branch starts anew by itself at step 0, when the step falls,
    and when batch, heads or lengths change; it follows its tensors to another device.

    Args:
        schedule: thresholds, and what is dense; refused with the difference where it has a
            fingerprint of something else. Without it, ``threshold`` (default -8) at every step
            after the first.
        threshold: see LiteSchedule; give either this or ``schedule``.
        layer: path of the layer, for the patterns of the schedule.
        block_q, block_k: tile size, each 64 or 128.
        measure: what of a tile is compared with the threshold. "largest_weight", the paper's: of
            its largest logit. "mean_mass": the share that its keys have in the softmax of this
            step, on average over its rows; "largest_mass": in the row where it is largest. Masses
            are exact, whatever the order, and need no reference.
        reference: what weights are measured against. "running", the paper's rule: the row maximum
            so far. "lse": the row's lse of the step before, corrected by its largest fall since, so
            that 2^threshold bounds a dropped tile's weights in this step's softmax whatever the
            order; 4 bytes for each query and head.
        order: "linear", "reversed", "radial", "alternating" (linear on even steps, reversed on odd
            ones) or "strongest" (by falling score of the step that last computed a tile; linear at
            the first step; 4 bytes for each tile): the order in which a row visits its tiles. Under
            the running reference, the first one visited is kept. "strongest" is for that reference
            and largest weights alone.
        mass_budget: the softmax mass that a row of tiles may lose in all, as a sum of bounds over
            all steps; tiles that it cannot pay for stay, whatever they score. None is no limit.
        reprobe_period: R > 0 computes one in R of the dropped tiles at every step; those that have
            become important are back. 0: what is dropped stays dropped.
        skips_values: leaves what a step finds negligible out of its own output as well, by panels
            of a few rows (the paper's Algorithm 1): no exponentials, no products with values. Not
            at dense steps. Every weight left out is at most 2^threshold of the row's largest. For
            largest weights against the running reference, one threshold below 0 for all heads, no
            budget and no protected tokens.
        shares_masks: one mask for all guidance branches in place of one for each. All branches of a
            step compute the same tiles, and a tile is dropped once each branch of a step found it
            negligible. One bit for each tile between two steps, two within a step; the branches
            must have one shape.
        measures_mass: every call also computes dense attention, for ``kept_mass`` in its
            statistics. A study's tool: it takes longer than dense attention alone.
        protected_queries, protected_keys: half-open (begin, end) ranges of tokens that are never
            skipped, such as text, rounded outward to tiles; those of the schedule come on top.
        skipped_queries, skipped_keys: ranges of tokens that are never computed, such as padding,
            rounded inward to tiles, and those of the schedule. They win over everything else.
        scale: logits are scale * q k^T. None is 1 / sqrt(head_dim).
        layout: "bhsd" or "bshd", as for saccade.attention.

    ``statistics`` holds one entry for each call of the current generation, ``states`` the state of
    each branch, ``shared`` the mask that they share, if they do (see saccade.save_state). Inference
    only: calls under autograd raise Unsupported.
    """

    def __init__(
        self,
        schedule: LiteSchedule | None = None,
        *,
        threshold: float | None = None,
        layer: str = "",
        block_q: int = 128,
        block_k: int = 64,
        measure: Literal["largest_weight", "largest_mass", "mean_mass"] = "largest_weight",
        reference: Literal["running", "lse"] = "running",
        order: Literal["linear", "reversed", "alternating", "radial", "strongest"] = "linear",
        mass_budget: float | None = None,
        reprobe_period: int = 0,
        skips_values: bool = False,
        shares_masks: bool = False,
        measures_mass: bool = False,
        protected_queries: Sequence[tuple[int, int]] = (),
        protected_keys: Sequence[tuple[int, int]] = (),
        skipped_queries: Sequence[tuple[int, int]] = (),
        skipped_keys: Sequence[tuple[int, int]] = (),
        scale: float | None = None,
        layout: Layout = "bhsd",
    ) -> None:
        if schedule is not None and threshold is not None:
            raise InvalidArgument("give either schedule or threshold, not both")
        rule = numbers_of(measure, reference, order)
        call(_ops.lite_check_rule, *rule, mass_budget, reprobe_period, skips_values)
        has_length_first(layout)
        TileGrid(1, 1, 1, 1, block_q, block_k)  # refuses other block sizes
        if schedule is None:
            schedule = LiteSchedule(DEFAULT_THRESHOLD if threshold is None else threshold)
        self.schedule = schedule
        self.layer = layer
        self.block_q, self.block_k = block_q, block_k
        self.measure = measure
        self.reference = reference
        self.order = order
        self.mass_budget = mass_budget
        self.reprobe_period = reprobe_period
        self.skips_values = skips_values
        self.shares_masks = shares_masks
        self.measures_mass = measures_mass
        self.protected_queries = (*protected_queries, *schedule.must_do_queries)
        self.protected_keys = (*protected_keys, *schedule.must_do_keys)
        self.skipped_queries = (*skipped_queries, *schedule.must_skip_queries)
        self.skipped_keys = (*skipped_keys, *schedule.must_skip_keys)
        self.scale = scale
        self.layout: Layout = layout
        self.statistics: list[StepStatistics] = []
        self.states: dict[str, BranchState] = {}
        self.shared: SharedMask | None = None
        self._unfinished: dict[str, _StepTaken] = {}
        self._matching: set[Fingerprint] = set()  # what was found to match the schedule's
        self._require_fingerprint(Fingerprint(**self.facts))

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
        out, lse, taken, probed_mass = self._take_step(
            *(q, k, v, int(step), branch, sigma, q_lens, k_lens), is_partial=False
        )
        self._end_step(taken, probed_mass)
        return (out, lse) if return_lse else out

    def partial_step(
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
    ) -> tuple[Tensor, Tensor]:
        """Attention over a shard of the keys: out and lse, for saccade.merge_partials.

        Which tiles are dropped is decided by ``finish_step``, which is told the lse of all shards:
        tiles are judged by their share of the whole softmax. So it needs ``reference="lse"``. Each
        shard has a LiteAttention of its own, whose ranges of keys count from the start of the
        shard. The first step of a generation knows no lse before it, and judges tiles within the
        shard: it drops what one call would, or less.
        """
        out, lse, taken, _ = self._take_step(
            *(q, k, v, int(step), branch, sigma, q_lens, k_lens), is_partial=True
        )
        self._unfinished[branch] = taken
        return out, lse

    def finish_step(self, lse: Tensor, *, branch: str = "cond") -> None:
        """Ends the partial step of ``branch``.

        ``lse``: that of all shards, [batch, heads, q_len], as saccade.merge_partials returns it.
        Raises InvalidArgument if no partial step of the branch is under way.
        """
        if branch not in self._unfinished:
            raise InvalidArgument(
                f"branch {branch!r} has no step to finish; partial_step begins one"
            )
        taken = self._unfinished[branch]
        state = taken.state
        require_cpu(lse=lse)
        probed_mass = call(
            _ops.lite_finish_step,
            *(lse, state.mask.words, state.ref, state.spent, taken.computed, taken.scores),
            *(*taken.lengths, list(astuple(state.mask.grid)), state.is_new),
            *(self.reprobe_period > 0, taken.plan.thresholds, self.mass_budget),
            *(bounds_of(self.protected_queries), bounds_of(self.protected_keys)),
        )
        del self._unfinished[branch]
        self._end_step(taken, probed_mass)

    @property
    def facts(self) -> dict[str, Any]:
        """The fields of a schedule's fingerprint that the options decide."""
        parts = ["threshold"]
        parts += ["mass budget"] if self.mass_budget is not None else []
        parts += ["re-probing"] if self.reprobe_period > 0 else []
        parts += ["skipped values"] if self.skips_values else []
        names = ("measure", "reference", "order", "block_q", "block_k")
        return {"rule": ", ".join(parts)} | {name: getattr(self, name) for name in names}

    def mask(self, branch: str = "cond") -> TileMask:
        """The tiles that the next sparse step of ``branch`` computes. Not a copy."""
        if branch not in self.states:
            known = ", ".join(map(repr, self.states)) or "none yet"
            raise InvalidArgument(f"no state for branch {branch!r}; branches so far: {known}")
        return self.states[branch].mask

    @property
    def state_bytes(self) -> int:
        """Memory of the states of all branches."""
        tensors = [tensor for state in self.states.values() for tensor in state.tensors]
        return bytes_of(tensors + ([] if self.shared is None else self.shared.tensors))

    @property
    def is_in_step(self) -> bool:
        """Whether a partial step waits for finish_step."""
        return bool(self._unfinished)

    def reset(self) -> None:
        """Forgets all branches and statistics; the next call of each starts with a full mask."""
        self.states.clear()
        self.statistics.clear()
        self.shared = None
        self._unfinished.clear()

    def _take_step(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        step: int,
        branch: str,
        sigma: float | None,
        q_lens: Tensor | None,
        k_lens: Tensor | None,
        *,
        is_partial: bool,
    ) -> tuple[Tensor, Tensor, _StepTaken, Tensor]:
        """out, lse, the step and its probed mass. A partial step has not changed its state."""
        if torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v)):
            raise Unsupported(
                "LiteAttention has no gradients; call it under torch.no_grad(), or use "
                "saccade.attention with a mask"
            )
        q, k, v = heads_first(q, k, v, self.layout)
        require_cpu(q=q, k=k, v=v, q_lens=q_lens, k_lens=k_lens)
        length = max(q.shape[2], k.shape[2])
        plan = self.schedule.plan(
            step, sigma=sigma, layer=self.layer, heads=q.shape[1], length=length
        )
        self._require_fingerprint(Fingerprint(heads=q.shape[1], head_dim=q.shape[3], length=length))
        state = self._state(q, k, step, branch)
        out, lse, active, probed_mass, computed, scores = call(
            _ops.lite_step,
            *(q, k, v, state.mask.words, state.ref, state.spent, state.scores),
            *(q_lens, k_lens, self.scale),
            *(self.block_q, self.block_k, step, state.is_new, is_partial, *plan),
            *numbers_of(self.measure, self.reference, self.order),
            *(self.mass_budget, self.reprobe_period, self.skips_values),
            *(bounds_of(self.protected_queries), bounds_of(self.protected_keys)),
            *(bounds_of(self.skipped_queries), bounds_of(self.skipped_keys)),
        )
        state.step = step
        kept_mass = None
        if self.measures_mass and not is_partial:
            kept_mass = self._kept_mass(q, k, lse, q_lens, k_lens)
        if has_length_first(self.layout):
            out = out.transpose(1, 2)
        lengths = q_lens, k_lens
        taken = _StepTaken(state, branch, plan, active, kept_mass, computed, scores, lengths)
        return out, lse, taken, probed_mass

    def _end_step(self, taken: _StepTaken, probed_mass: Tensor) -> None:
        """Once the state is that of the next step: shares it, and records the step."""
        state, plan = taken.state, taken.plan
        state.is_new = False
        if self.shared is not None:
            state.mask = self.shared.end(taken.branch, state.mask)
        # A dense step computes all dropped tiles, any other one in reprobe_period.
        dropped = probed_mass * (1 if plan.is_dense else self.reprobe_period)
        self.statistics.append(
            StepStatistics(
                *(taken.branch, state.step, plan.is_dense, max(plan.thresholds), taken.active),
                math.prod(state.mask.grid.shape[2:]),
                dropped if self.reprobe_period else None,
                taken.kept_mass,
            )
        )

    def _require_fingerprint(self, here: Fingerprint) -> None:
        expected = self.schedule.fingerprint
        if expected is not None and here not in self._matching:
            expected.require_match(here)
            self._matching.add(here)

    def _state(self, q: Tensor, k: Tensor, step: int, branch: str) -> BranchState:
        grid = TileGrid(*q.shape[:3], k.shape[2], self.block_q, self.block_k)
        shared = self._shared_mask(grid, q.device, step, branch) if self.shares_masks else None
        state = self.states.get(branch)
        last_grid = [] if state is None else list(astuple(state.mask.grid))
        last_step = 0 if state is None else state.step
        if state is not None and state.mask.words.device != q.device:
            state = self.states[branch] = state.to(q.device)
        if call(_ops.lite_must_reset, last_grid, last_step, list(astuple(grid)), step):
            state = self.states[branch] = self._new_state(grid, q, step)
            self.statistics = [entry for entry in self.statistics if entry.branch != branch]
        assert state is not None
        if shared is not None:
            state.mask = shared.begin(step)
        return state

    def _shared_mask(
        self, grid: TileGrid, device: torch.device, step: int, branch: str
    ) -> SharedMask:
        """The mask of all branches, full where a generation begins."""
        shared = self.shared
        joins = shared is not None and shared.is_joined_by(branch, step)
        if shared is not None and joins and shared.now.grid != grid:
            raise InvalidArgument(
                f"shares_masks needs branches of one shape, but step {step} has ({grid}) and "
                f"({shared.now.grid}); make it False"
            )
        last_grid = [] if shared is None else list(astuple(shared.now.grid))
        last_step = 0 if shared is None else shared.step
        if shared is None or (
            not joins
            and call(_ops.lite_must_reset, last_grid, last_step, list(astuple(grid)), step)
        ):
            self.states.clear()
            self.statistics.clear()
            shared = self.shared = SharedMask.full(grid, step, device)
        if shared.now.words.device != device:
            shared.to(device)
        return shared

    def _kept_mass(
        self, q: Tensor, k: Tensor, lse: Tensor, q_lens: Tensor | None, k_lens: Tensor | None
    ) -> Tensor:
        """e^lse is the mass of a row: over the computed tiles by that over all of them."""
        _, dense_lse = attention(
            q, k, k, scale=self.scale, q_lens=q_lens, k_lens=k_lens, return_lse=True
        )
        return torch.exp(lse - dense_lse).nanmean(-1).float()  # NaN: beyond q_lens

    def _new_state(self, grid: TileGrid, q: Tensor, step: int) -> BranchState:
        ref = spent = scores = None
        if self.reference == "lse":
            dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
            ref = torch.full(q.shape[:3], math.nan, dtype=dtype, device=q.device)
        if self.mass_budget is not None:
            spent = torch.zeros(grid.shape[:3], device=q.device)
        if self.order == "strongest":
            scores = torch.full(grid.shape, math.nan, device=q.device)
        mask = TileMask.full(*astuple(grid), device=q.device)
        return BranchState(mask, step, ref, spent, scores)


def numbers_of(measure: str, reference: str, order: str) -> tuple[int, int, int]:
    """Of a rule's names, for the operators."""
    return (
        _number_of("measure", measure, MEASURES),
        _number_of("reference", reference, REFERENCES),
        _number_of("order", order, ORDERS),
    )


def _number_of(what: str, name: str, names: tuple[str, ...]) -> int:
    if name not in names:
        raise InvalidArgument(
            f"{what} must be {', '.join(names[:-1])} or {names[-1]}, got {name!r}"
        )
    return names.index(name)

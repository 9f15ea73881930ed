"""What LiteAttention keeps between steps: of each guidance branch, and of all of them together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, field

import torch
from torch import Tensor

from .tile_mask import TileGrid, TileMask


@dataclass
class BranchState:
    """The state of one guidance branch.

    ``mask``: tiles that the next step computes. ``step``: the last one. ``ref``: [batch, heads,
    q_len], its lse, with the lse reference. ``spent``: float32 [batch, heads, q_tiles], bounds on
    the mass dropped so far, with a budget. ``scores``: float32 [batch, heads, q_tiles, k_tiles], of
    each tile when it was last computed, or where it was visited if it scored 0, NaN if it never
    was, with the order strongest. ``is_new``: no step was taken yet.
    """

    mask: TileMask
    step: int
    ref: Tensor | None
    spent: Tensor | None
    scores: Tensor | None = None
    is_new: bool = True

    @property
    def tensors(self) -> list[Tensor]:
        return [self.mask.words, *(t for t in self._optional if t is not None)]

    def to(self, device: torch.device) -> BranchState:
        """The same state in the memory of ``device``."""
        optional = (None if t is None else t.to(device) for t in self._optional)
        return BranchState(self.mask.to(device), self.step, *optional, is_new=self.is_new)

    @property
    def _optional(self) -> tuple[Tensor | None, ...]:
        return self.ref, self.spent, self.scores


@dataclass
class SharedMask:
    """One mask for all branches: a tile is dropped once every branch of a step found it negligible.

    ``now``: tiles that the branches of step ``step`` compute. ``next``: those that the branches
    ``called`` at this step still need, which the next step computes; None before the first of
    them. ``expected``: the branches of the step before. Once they all were called, ``now`` is
    ``next``, and one bit for each tile is all there is.
    """

    now: TileMask
    step: int
    next: TileMask | None = None
    called: set[str] = field(default_factory=set)
    expected: set[str] = field(default_factory=set)

    @classmethod
    def full(cls, grid: TileGrid, step: int, device: torch.device) -> SharedMask:
        return cls(TileMask.full(*astuple(grid), device=device), step)

    @property
    def tensors(self) -> list[Tensor]:
        return [mask.words for mask in (self.now, self.next) if mask is not None]

    def is_joined_by(self, branch: str, step: int) -> bool:
        """Whether a call is that of another branch at the step under way."""
        return step == self.step and branch not in self.called

    def begin(self, step: int) -> TileMask:
        """A copy of the tiles that a call of this step computes, for the call to drop tiles of."""
        if step != self.step and self.next is not None:
            self.now, self.next = self.next, None
            self.expected, self.called = self.called, set()
        self.step = step
        return TileMask(self.now.grid, self.now.words.clone())

    def end(self, branch: str, kept: TileMask) -> TileMask:
        """Adds what a branch still needs; returns ``next``, which later branches add to."""
        if self.next is None:
            self.next = kept
        else:
            self.next.words |= kept.words
        self.called.add(branch)
        if self.expected and self.called >= self.expected:
            self.now = self.next
        return self.next

    def to(self, device: torch.device) -> None:
        """Moves to the memory of ``device``."""
        before, self.now = self.now, self.now.to(device)
        if self.next is not None:
            self.next = self.now if self.next is before else self.next.to(device)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Memory of tensors, each counted once."""
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())

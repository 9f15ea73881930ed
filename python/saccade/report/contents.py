"""What a report is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .measurement import Measurement


@dataclass(frozen=True)
class Clip:
    """A clip to play: float32 [3, frames, height, width], values in 0 to 1.

    Clips of one ``prompt`` stand in one row, in the order given, and play in step.
    """

    label: str
    prompt: str
    caption: str
    frames: Tensor


@dataclass(frozen=True)
class MaskHistory:
    """How long each tile was computed, in one generation of ``steps`` steps.

    ``kept``: uint8 [branches, layers, heads, q_tiles, k_tiles], the number of steps that computed
    the tile, counted from the first; LiteAttention drops tiles for good, so that a tile was active
    at step s (from 0) where kept > s. ``layers`` and ``heads`` are the positions of a sample.
    """

    label: str
    prompt: str
    branches: Sequence[str]
    layers: Sequence[int]
    heads: Sequence[int]
    steps: int
    kept: Tensor


@dataclass(frozen=True)
class Contents:
    """``facts`` are pairs of a name and a text on how the report was made; ``training`` the
    model's history: "step", "held_out_loss" and "train_loss" (or None) of each entry."""

    title: str
    lead: str
    measurements: Sequence[Measurement]
    clips: Sequence[Clip] = ()
    masks: Sequence[MaskHistory] = ()
    facts: Sequence[tuple[str, str]] = ()
    training: Sequence[dict[str, Any]] = field(default_factory=list)

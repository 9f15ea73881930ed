"""Keeps how long each tile was computed, for a sample of layers and heads."""

from __future__ import annotations

import torch
from torch import Tensor

import saccade

from ..report import MaskHistory

MAX_LAYERS, MAX_HEADS = 8, 4


class MaskRecorder:
    """Call ``record`` after each step of one generation of LiteAttention, then ``history``."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._recorded = 0
        self._kept: dict[tuple[str, int], Tensor] = {}
        self._heads: list[int] = []
        self._layers: list[int] = []

    def record(self, summary: saccade.Summary) -> None:
        """Takes the tiles that remain after a step; the last step has none after it."""
        self._recorded += 1
        if self._recorded == self._steps:
            return
        self._layers = _spread(len(summary.layers), MAX_LAYERS)
        for number in self._layers:
            layer = summary.layers[number]
            for branch in dict.fromkeys(call.branch for call in layer.calls):
                active = layer.attention.mask(branch).to_dense()[0]
                self._heads = _spread(len(active), MAX_HEADS)
                # Every tile was computed at the first step.
                kept = self._kept.setdefault(
                    (branch, number), torch.ones_like(active[self._heads], dtype=torch.uint8)
                )
                kept += active[self._heads]

    def history(self, label: str, prompt: str) -> MaskHistory | None:
        """What was recorded; None of a generation of one step, which has no mask after it."""
        if not self._kept:
            return None
        branches = list(dict.fromkeys(branch for branch, _ in self._kept))
        kept = [[self._kept[branch, number] for number in self._layers] for branch in branches]
        return MaskHistory(
            label=label,
            prompt=prompt,
            branches=branches,
            layers=self._layers,
            heads=self._heads,
            steps=self._steps,
            kept=torch.stack([torch.stack(layers) for layers in kept]),
        )


def _spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers 0 to count - 1, evenly spread."""
    return torch.linspace(0, count - 1, min(count, most)).round().int().tolist()

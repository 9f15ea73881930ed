"""The tokens of a Wan transformer in another order, between its patch embedding and its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from ..errors import InvalidArgument
from ..space_time import Box, choose_box, inverse_order, token_order

_REORDERED = ("patch_embedding", "rope", "proj_out")


@dataclass(frozen=True)
class BoxChoice:
    """The meaning of a ``token_order`` other than "frames": "space_time" or a box."""

    token_order: str | Box
    block_q: int = 128
    block_k: int = 64

    def __call__(self, frames: int, height: int, width: int) -> Box:
        """The box for a latent of so many tokens."""
        if isinstance(self.token_order, tuple):
            return self.token_order
        return choose_box(frames, height, width, self.block_q, self.block_k)


class Reordering:
    """Permutes the tokens that the blocks of ``transformer`` see, from construction to ``undo``.

    Between patch embedding and output projection everything is done token by token or, as
    attention, does not depend on their order: the output stays the same, up to rounding. What a
    cache of blocks keeps from call to call is in the same order at every call of one shape.

    ``token_order`` is the box of the last call; before any, that of ``boxes``.
    """

    def __init__(self, transformer: ModelMixin, boxes: BoxChoice) -> None:
        self.token_order = boxes.token_order
        self._transformer = transformer
        self._boxes = boxes
        self._grid: tuple[int, ...] = ()
        self._order = self._inverse = torch.empty(0, dtype=torch.int64)
        self._modules = {name: getattr(transformer, name) for name in _REORDERED}
        hooks = (self._order_patches, self._order_rotations, self._restore_tokens)
        self._handles = [
            module.register_forward_hook(hook)
            for module, hook in zip(self._modules.values(), hooks, strict=True)
        ]

    def require_reach(self) -> None:
        """Raises InvalidArgument where somebody has exchanged a module, as loading a LoRA does."""
        for name, module in self._modules.items():
            if getattr(self._transformer, name) is not module:
                raise InvalidArgument(
                    f"{name} was exchanged after saccade.enable, so that token_order does not "
                    "reach it; saccade.disable a model before changing it or loading a LoRA"
                )

    def undo(self) -> None:
        for handle in self._handles:
            handle.remove()

    def begin_call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call of the transformer; timesteps [batch, tokens] are in order."""
        arguments = dict(zip(("hidden_states", "timestep"), args, strict=False)) | kwargs
        latent, timestep = arguments["hidden_states"], arguments["timestep"]
        self._prepare(latent)
        if timestep.ndim != 2:
            return args, kwargs
        ordered = _permuted(timestep, self._order, 1)
        if "timestep" in kwargs:
            return args, kwargs | {"timestep": ordered}
        return (args[0], ordered, *args[2:]), kwargs

    def _prepare(self, latent: Tensor) -> None:
        patch = self._transformer.config.patch_size
        grid = tuple(n // p for n, p in zip(latent.shape[2:], patch, strict=True))
        if grid != self._grid:
            self.token_order = self._boxes(*grid)
            self._order = token_order(*grid, self.token_order)
            self._inverse = inverse_order(self._order)
            self._grid = grid
        self._order = self._order.to(latent.device)
        self._inverse = self._inverse.to(latent.device)

    def _order_patches(self, _module: nn.Module, _args: Any, patches: Tensor) -> Tensor:
        """[batch, channels, frames, height, width], which the transformer flattens next."""
        return _permuted(patches.flatten(2), self._order, 2).view_as(patches)

    def _order_rotations(
        self, _module: nn.Module, _args: Any, rotations: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        """Cosines and sines, each [1, tokens, 1, head_dim]."""
        return tuple(_permuted(part, self._order, 1) for part in rotations)

    def _restore_tokens(self, _module: nn.Module, _args: Any, tokens: Tensor) -> Tensor:
        return _permuted(tokens, self._inverse, 1)


def _permuted(x: Tensor, order: Tensor, dim: int) -> Tensor:
    return x.index_select(dim, order.to(x.device))

"""Sparse attention as functions of tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from . import _ops
from .errors import InvalidArgument, Unsupported, call
from .tile_mask import TileGrid, TileMask

Layout = Literal["bhsd", "bshd"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    tiles: TileMask | None = None,
    scale: float | None = None,
    layout: Layout = "bhsd",
    q_lens: Tensor | None = None,
    k_lens: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention over the active tiles of a mask.

    Args:
        q: [batch, q_heads, q_len, head_dim] ("bhsd") or [batch, q_len, q_heads, head_dim]
            ("bshd"), float16, bfloat16 or float32; any strides, but unit stride in head_dim, which
            is a multiple of 16 up to 256.
        k, v: likewise with k_heads and k_len, dtype of q. Query head h reads key head
            h // (q_heads / k_heads). Lengths are at least 1 and need not be equal.
        tiles: the tiles to compute; its grid must be that of q and k. None computes all of them.
        scale: logits are scale * q k^T. None is 1 / sqrt(head_dim).
        layout: order of the dimensions of q, k, v and out. Neither order costs a copy.
        q_lens, k_lens: int32 [batch], the valid lengths of a padded batch. What lies beyond them is
            never read and may hold NaN.
        return_lse: also return the log-sum-exp of the logits.

    Returns:
        out, with the shape, dtype and strides of q. With ``return_lse`` also lse: float32
        [batch, q_heads, q_len] in either layout, natural logarithm. A row without an active key,
        and every row beyond q_lens, has out = 0 and lse = -inf.

    Both are differentiable, once, in q, k and v. torch's intra-op threads do the work; results are
    the same bits for any number of them. Raises InvalidArgument or Unsupported.
    """
    swapped = has_length_first(layout)
    q, k, v = heads_first(q, k, v, layout)
    words, block_q, block_k = None, 128, 64
    if tiles is not None:
        require_grid_of(tiles, q, k)
        words, block_q, block_k = tiles.words, tiles.grid.block_q, tiles.grid.block_k
    require_cpu(q=q, k=k, v=v, tiles=words, q_lens=q_lens, k_lens=k_lens)

    out, lse = call(_ops.attention_forward, q, k, v, words, q_lens, k_lens, scale, block_q, block_k)
    if swapped:
        out = out.transpose(1, 2)
    return (out, lse) if return_lse else out


def merge_partials(
    outs: Sequence[Tensor], lses: Sequence[Tensor], *, layout: Layout = "bhsd"
) -> tuple[Tensor, Tensor]:
    """Attention over a union of disjoint key sets, from the attention over each of them.

        lse = log(sum_i exp(lse_i)),  out = sum_i exp(lse_i - lse) * out_i

    Args:
        outs: at least one tensor [batch, heads, q_len, head_dim] ("bhsd") or
            [batch, q_len, heads, head_dim] ("bshd"), all of one shape and dtype.
        lses: as many tensors float32 [batch, heads, q_len] in either layout, natural logarithm.
        layout: order of the dimensions of ``outs`` and of the result.

    A partial whose lse is -inf has no weight and its out is not read; where all are -inf, out is 0
    and lse -inf. Both results are differentiable, once, in all inputs. Raises InvalidArgument or
    Unsupported.
    """
    swapped = has_length_first(layout)
    outs, lses = list(outs), list(lses)
    if not outs or len(outs) != len(lses):
        raise InvalidArgument(
            "merge_partials needs at least one partial and an lse for each out, "
            f"got {len(outs)} outs and {len(lses)} lses"
        )
    for i, tensor in enumerate(outs):
        _require_rank_4(f"outs[{i}]", tensor, layout)
    if swapped:
        outs = [tensor.transpose(1, 2) for tensor in outs]
    require_cpu(
        **{f"outs[{i}]": tensor for i, tensor in enumerate(outs)},
        **{f"lses[{i}]": tensor for i, tensor in enumerate(lses)},
    )
    out, lse = call(_ops.merge_partials, outs, lses)
    return (out.transpose(1, 2) if swapped else out), lse


def info() -> dict[str, Any]:
    """What this installation is and runs on.

    Keys: "version"; "commit" ("" if unknown); "backends", a list of {"name", "available",
    "details"}; "cpu_targets", the usable instruction sets, best first; "torch", its version.
    """
    return {**json.loads(_ops.info()), "torch": torch.__version__}


def heads_first(q: Tensor, k: Tensor, v: Tensor, layout: str) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v as views [batch, heads, length, head_dim]."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _require_rank_4(name, tensor, layout)
    if has_length_first(layout):
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return q, k, v


def autocast_inputs(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v in the dtype of autocast where it is enabled, as torch's own attention casts."""
    if not torch.is_autocast_enabled(q.device.type):
        return q, k, v
    dtype = torch.get_autocast_dtype(q.device.type)
    return q.to(dtype), k.to(dtype), v.to(dtype)


def has_length_first(layout: str) -> bool:
    """Whether the layout is "bshd"; raises InvalidArgument for a name that is no layout."""
    if layout not in ("bhsd", "bshd"):
        raise InvalidArgument(f'layout must be "bhsd" or "bshd", got {layout!r}')
    return layout == "bshd"


def _require_rank_4(name: str, tensor: Tensor, layout: str) -> None:
    if tensor.dim() != 4:
        raise InvalidArgument(
            f'{name} must have 4 dimensions, layout "{layout}", got shape {tuple(tensor.shape)}'
        )


def require_grid_of(tiles: TileMask, q: Tensor, k: Tensor) -> None:
    """The operators see only the words of a mask, whose shape many lengths share."""
    if not isinstance(tiles, TileMask):
        raise InvalidArgument(
            f"tiles must be a TileMask, got {type(tiles).__name__}; TileMask.from_dense makes one"
        )
    batch, heads, q_len, _ = q.shape
    grid = TileGrid(batch, heads, q_len, k.shape[2], tiles.grid.block_q, tiles.grid.block_k)
    if tiles.grid == grid:  # torch.compile cannot trace != of symbolic extents
        return
    raise InvalidArgument(f"tiles are for ({tiles.grid}), but q and k need ({grid})")


def require_cpu(**tensors: Tensor | None) -> None:
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device.type != "cpu":
            raise Unsupported(
                f"{name} is on {tensor.device}, but this build has a backend for cpu only"
            )


def bounds_of(ranges: Sequence[tuple[int, int]]) -> list[int]:
    """begin, end, begin, end, ...: ranges of tokens as the operators take them."""
    return [bound for one in ranges for bound in one]

"""What SLA (arXiv 2509.24006) is made of: routing, linear attention, both branches at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from . import _ops
from .errors import InvalidArgument, call
from .functional import Layout, has_length_first, heads_first, require_cpu, require_grid_of
from .tile_mask import TileGrid, TileMask

FeatureMap = Literal["softmax", "elu_plus_one", "relu", "hedgehog"]
Share = float | int
"""Of the key tiles of a row: a float is a ratio, an int a count."""

_Shares = tuple[tuple[float, int], tuple[float, int]]


def pool_tiles(
    x: Tensor, *, block: int = 64, lens: Tensor | None = None, layout: Layout = "bhsd"
) -> Tensor:
    """The mean of every tile of tokens (eq. 2).

    Args:
        x: [batch, heads, length, head_dim] ("bhsd") or [batch, length, heads, head_dim] ("bshd"),
            float16, bfloat16 or float32, unit stride in head_dim.
        block: tokens of a tile, 64 or 128.
        lens: int32 [batch], the valid lengths; what lies beyond them is never read.
        layout: order of the dimensions of x.

    Returns:
        float32 [batch, heads, ceil(length / block), head_dim] in either layout. The last, partial
        tile is divided by its true count; a tile without a valid token is 0. Carries no gradient.
    """
    x, _, _ = heads_first(x, x, x, layout)
    require_cpu(x=x, lens=lens)
    return call(_ops.pool_tiles, x.detach(), lens, block)


def select_tiles(
    q: Tensor,
    k: Tensor,
    *,
    critical: Share | Sequence[Share] = 0.05,
    negligible: Share | Sequence[Share] = 0.10,
    critical_mass: float = 0.0,
    always: TileMask | None = None,
    scale: float | None = None,
    block_q: int = 64,
    block_k: int = 64,
    layout: Layout = "bhsd",
    q_lens: Tensor | None = None,
    k_lens: Tensor | None = None,
) -> tuple[TileMask, TileMask]:
    """SLA's three classes of tiles (eq. 2 and 3): the critical and the marginal ones.

    The attention weights between the means of the tiles rank the key tiles of every row of tiles,
    the highest first, equal ones by index. What is in neither mask is negligible.

    Args:
        q, k: as in :func:`saccade.attention`.
        critical: how many of the highest ranks are critical, at least one: a float is a share of
            the tiles with a valid key, rounded down, an int is a count. Tiles of ``always`` count.
            A sequence has one share for each query head.
        negligible: likewise, how many of the lowest ranks are negligible. Where both overlap a tile
            is critical.
        critical_mass: further tiles are critical until their weights sum up to this; 0 = none.
            With ``critical=1`` this is top-p selection, with more the union of top-k and top-p.
        always: tiles that are critical whatever their rank.
        scale: of the logits; None is 1 / sqrt(head_dim).
        block_q, block_k: the tiles of both masks, 64 or 128; those of ``always`` where it is given.

    Every backend takes the very same decisions. No gradient flows through them. Raises
    InvalidArgument or Unsupported.
    """
    q, k, _ = heads_first(q, k, k, layout)
    if always is not None:
        require_grid_of(always, q, k)
        block_q, block_k = always.grid.block_q, always.grid.block_k
    grid = TileGrid(q.shape[0], q.shape[1], q.shape[2], k.shape[2], block_q, block_k)
    words = always.words if always is not None else None
    require_cpu(q=q, k=k, always=words, q_lens=q_lens, k_lens=k_lens)
    q_means = call(_ops.pool_tiles, q.detach(), q_lens, block_q)
    k_means = call(_ops.pool_tiles, k.detach(), k_lens, block_k)

    def choose(
        q_means: Tensor, k_means: Tensor, words: Tensor | None, shares: _Shares
    ) -> tuple[Tensor, Tensor]:
        return call(
            _ops.select_tiles,
            *(q_means, k_means, grid.q_len, grid.k_len, block_q, block_k, q_lens, k_lens),
            *(words, scale, *shares[0], critical_mass, *shares[1]),
        )

    heads_by_shares = _heads_by_shares(critical, negligible, q.shape[1])
    if len(heads_by_shares) == 1:
        chosen = choose(q_means, k_means, words, next(iter(heads_by_shares)))
        return TileMask(grid, chosen[0]), TileMask(grid, chosen[1])

    k_means = k_means.repeat_interleave(q.shape[1] // k.shape[1], 1)
    both = torch.empty((2, *grid.words_shape), dtype=torch.int64, device=q.device)
    for shares, heads in heads_by_shares.items():
        own_words = None if words is None else words[:, heads]
        chosen = choose(q_means[:, heads], k_means[:, heads], own_words, shares)
        both[:, :, heads] = torch.stack(chosen)
    return TileMask(grid, both[0]), TileMask(grid, both[1])


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    tiles: TileMask | None = None,
    feature_map: FeatureMap = "softmax",
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    epsilon: float = 0.0,
    layout: Layout = "bhsd",
    q_lens: Tensor | None = None,
    k_lens: Tensor | None = None,
) -> Tensor:
    """Linear attention over the active tiles of a mask (eq. 5).

        out[t] = sum_s (phi(q[t]) . phi(k[s])) v[s] / (epsilon + sum_s phi(q[t]) . phi(k[s]))

    over the keys s that share an active tile with query t.

    Args:
        q, k, v, layout, q_lens, k_lens: as in :func:`saccade.attention`.
        tiles: SLA's marginal tiles; None lets every query meet every key.
        feature_map: phi. "softmax" over the elements of a token; "elu_plus_one"; "relu";
            "hedgehog", the softmax over the 2 * head_dim elements of [W x, -W x].
        q_weight, k_weight: W of the queries and of the keys, for hedgehog and for it only: float32
            [heads, head_dim, head_dim]. One tensor may be both.
        epsilon: added to the denominator; at least 0.

    Returns:
        out, with the shape, dtype and strides of q; 0 in rows whose denominator is 0 and beyond
        q_lens. Differentiable, once, in q, k, v and the weights. Raises InvalidArgument or
        Unsupported.
    """
    swapped = has_length_first(layout)
    q, k, v = heads_first(q, k, v, layout)
    words, block_q, block_k = None, 64, 64
    if tiles is not None:
        require_grid_of(tiles, q, k)
        words, block_q, block_k = tiles.words, tiles.grid.block_q, tiles.grid.block_k
    weights = (q_weight, k_weight)
    require_cpu(q=q, k=k, v=v, tiles=words, q_lens=q_lens, k_lens=k_lens)
    require_cpu(q_weight=q_weight, k_weight=k_weight)
    out = call(
        _ops.linear_forward,
        *(q, k, v, words, q_lens, k_lens, *weights, feature_map, epsilon, block_q, block_k),
    )
    return out.transpose(1, 2) if swapped else out


def sparse_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    critical: TileMask,
    marginal: TileMask | None = None,
    scale: float | None = None,
    feature_map: FeatureMap = "softmax",
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    epsilon: float = 0.0,
    layout: Layout = "bhsd",
    q_lens: Tensor | None = None,
    k_lens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Both branches of SLA in one call (Algorithms 1 and 2).

    Args:
        critical: the tiles of softmax attention, which is normalised over them alone.
        marginal: the tiles of linear attention; None lets every query meet every key.
        q, k, v, scale, layout, q_lens, k_lens: as in :func:`saccade.attention`.
        feature_map, q_weight, k_weight, epsilon: as in :func:`linear_attention`.

    Returns:
        out of softmax attention and out of linear attention, each with the shape, dtype and strides
        of q. SLA adds ``proj(linear_out)`` to the former. Both are differentiable, once, in q, k, v
        and the weights. Raises InvalidArgument or Unsupported.
    """
    swapped = has_length_first(layout)
    q, k, v = heads_first(q, k, v, layout)
    require_grid_of(critical, q, k)
    grid = critical.grid
    if marginal is not None and marginal.grid != grid:
        raise InvalidArgument(
            f"critical and marginal must have one grid, got ({grid}) and ({marginal.grid})"
        )
    words = marginal.words if marginal is not None else None
    require_cpu(q=q, k=k, v=v, critical=critical.words, marginal=words)
    require_cpu(q_lens=q_lens, k_lens=k_lens, q_weight=q_weight, k_weight=k_weight)
    out, _, linear_out = call(
        _ops.sparse_linear_forward,
        *(q, k, v, critical.words, words, q_lens, k_lens, q_weight, k_weight),
        *(scale, feature_map, epsilon, grid.block_q, grid.block_k),
    )
    if swapped:
        out, linear_out = out.transpose(1, 2), linear_out.transpose(1, 2)
    return out, linear_out


def _heads_by_shares(
    critical: Share | Sequence[Share], negligible: Share | Sequence[Share], heads: int
) -> dict[_Shares, list[int]]:
    """The heads that have the same shares of critical and negligible tiles, by these."""
    by_name = []
    for name, shares in (("critical", critical), ("negligible", negligible)):
        of_heads = shares if isinstance(shares, (list, tuple)) else (shares,) * heads
        if len(of_heads) != heads:
            raise InvalidArgument(
                f"{name} must be one share or {heads}, one for each query head, got {len(of_heads)}"
            )
        by_name.append([tile_share(name, share) for share in of_heads])
    found: dict[_Shares, list[int]] = {}
    for head, shares in enumerate(zip(*by_name, strict=True)):
        found.setdefault(shares, []).append(head)
    return found


def tile_share(name: str, value: Share) -> tuple[float, int]:
    """Ratio and count, of which a count that is not negative decides."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidArgument(
            f"{name} must be a share of the tiles (float) or a count (int), got {value!r}"
        )
    if isinstance(value, float):
        return value, -1
    if value < 0:
        raise InvalidArgument(f"{name} must be a count of at least 0, got {value}")
    return 0.0, value

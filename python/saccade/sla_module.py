"""SLA (arXiv 2509.24006) as a module: routing, both branches, and what is learnt between them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .errors import InvalidArgument
from .functional import Layout, attention, autocast_inputs, has_length_first, heads_first
from .lite import StepStatistics
from .sla import FeatureMap, Share, select_tiles, sparse_linear_attention
from .tile_mask import TileGrid, TileMask

FEATURE_MAPS = ("softmax", "elu_plus_one", "relu", "hedgehog")
LINEAR = ("marginal", "all")

Shares = Share | Sequence[Share]
"""One share of the key tiles for all query heads, or one for each."""


class SparseLinearAttention(nn.Module):
    """Softmax attention over the critical tiles, corrected by linear attention (eq. 6).

        out = softmax_attention(critical tiles) + proj_l(linear_attention(marginal tiles))

    ``proj_l`` is a linear layer over the features of a head, the same for all heads. It begins at
    zero, where the module is sparse attention alone: it is fine-tuning that makes it worth having.
    Every input and parameter gets a gradient; routing is a constant to them.

    Args:
        head_dim: features of a head.
        critical: the share of the key tiles of a row that softmax attention computes, as for
            select_tiles: a float is a ratio, an int a count, a sequence has one for each query
            head. Or a function of the noise level ``sigma``, in [0, 1], that returns one of these.
        negligible: likewise, the share that is left out of both branches. linear="all" leaves out
            nothing, and does not look at it.
        critical_mass: further tiles are critical until their weights sum up to this.
        feature_map: of linear attention, see saccade.linear_attention. "hedgehog" is learnt.
        linear: "marginal", the paper: linear attention is over the tiles that are neither critical
            nor negligible. "all", as in the later public code: over every key.
        heads, k_heads: query and key heads, for the weights of hedgehog, which needs ``heads``;
            ``k_heads`` is ``heads`` unless given.
        ties_weights: hedgehog has one map for queries and keys, ``q_weight``; False adds
            ``k_weight``. Each [heads, head_dim, head_dim], identities at first.
        epsilon: added to the denominator of linear attention. None is 0 for "marginal" and 1e-5 for
            "all", as in the public code. Rows whose denominator is 0 get 0, never NaN.
        block_q, block_k: the tiles, 64 or 128.
        refresh: without autograd, the classes of tiles of each guidance branch are kept for so many
            steps, and calls need ``step``. Under autograd every call chooses anew.
        min_length: attention is dense below so many tokens (of the longer of q and k), which a
            warning says once; parameters get no gradient from such a call.
        protected_queries, protected_keys: half-open (begin, end) ranges of tokens whose tiles are
            always critical, rounded outward; they count in ``critical``.
        scale: of the logits. None is 1 / sqrt(head_dim).
        layout: "bhsd" or "bshd", as for saccade.attention.

    Under autocast q, k and v are cast to its dtype, as for torch's own attention. ``proj_l`` runs
    in the dtype of its weight or, under autocast, in that of autocast; its result is rounded to the
    dtype of q before the sum. Hedgehog's weights are used in float32, whatever they are kept in.

    ``statistics`` holds an entry for the last call, with fields as of LiteAttention's; calls in
    compiled code leave none. ``states`` the classes of tiles that are kept. Neither is saved.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        critical: Shares | Callable[[float], Shares] = 0.05,
        negligible: Shares = 0.10,
        critical_mass: float = 0.0,
        feature_map: FeatureMap = "softmax",
        linear: Literal["marginal", "all"] = "marginal",
        heads: int | None = None,
        k_heads: int | None = None,
        ties_weights: bool = True,
        epsilon: float | None = None,
        block_q: int = 64,
        block_k: int = 64,
        refresh: int = 1,
        min_length: int = 0,
        protected_queries: Sequence[tuple[int, int]] = (),
        protected_keys: Sequence[tuple[int, int]] = (),
        scale: float | None = None,
        layout: Layout = "bhsd",
    ) -> None:
        super().__init__()
        _require_choice("feature_map", feature_map, FEATURE_MAPS)
        _require_choice("linear", linear, LINEAR)
        _require_at_least("head_dim", head_dim, 1)
        _require_at_least("refresh", refresh, 1)
        _require_at_least("min_length", min_length, 0)
        if epsilon is not None:
            _require_at_least("epsilon", epsilon, 0)
        has_length_first(layout)
        self.head_dim = head_dim
        self.critical = critical
        self.negligible = negligible
        self.critical_mass = critical_mass
        self.feature_map: FeatureMap = feature_map
        self.linear = linear
        self.epsilon = epsilon if epsilon is not None else (1e-5 if linear == "all" else 0.0)
        self.block_q, self.block_k = block_q, block_k
        self.refresh = refresh
        self.min_length = min_length
        self.protected_queries = tuple(map(tuple, protected_queries))
        self.protected_keys = tuple(map(tuple, protected_keys))
        self.scale = scale
        self.layout: Layout = layout
        self.proj_l = nn.Linear(head_dim, head_dim)
        nn.init.zeros_(self.proj_l.weight)
        nn.init.zeros_(self.proj_l.bias)
        self._make_weights(heads, k_heads, ties_weights)
        self._try_shares(heads)
        self.states: dict[str, TileClasses] = {}
        self.statistics: list[StepStatistics] = []

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        step: int | None = None,
        branch: str = "cond",
        sigma: float | None = None,
        q_lens: Tensor | None = None,
        k_lens: Tensor | None = None,
    ) -> Tensor:
        """Attention of q over k and v, with shapes as for saccade.attention.

        ``step`` (from 0) and ``branch`` are for ``refresh``, ``sigma`` for a ``critical`` that is a
        function of it. out has the shape and dtype of q (that of autocast, if it is enabled), and
        is 0 beyond ``q_lens``. Raises InvalidArgument or Unsupported.
        """
        q, k, v = heads_first(*autocast_inputs(q, k, v), self.layout)
        if q.shape[3] != self.head_dim:
            raise InvalidArgument(f"q must have head_dim {self.head_dim}, got {q.shape[3]}")
        lens = {"q_lens": q_lens, "k_lens": k_lens}
        if max(q.shape[2], k.shape[2]) < self.min_length:
            out = self._attend_densely(q, k, v, lens)
            critical = None
        else:
            classes = self._classes(q, k, step, branch, sigma, lens)
            critical = classes.critical
            out = self._attend(q, k, v, classes, lens)
        if not torch.compiler.is_compiling():
            self._record(q, k, critical, step, branch)
        return out.transpose(1, 2) if has_length_first(self.layout) else out

    def reset(self) -> None:
        """Forgets the classes of tiles that are kept, and the statistics."""
        self.states.clear()
        self.statistics.clear()

    def extra_repr(self) -> str:
        names = ("head_dim", "critical", "negligible", "feature_map", "linear")
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in names)

    def _make_weights(self, heads: int | None, k_heads: int | None, ties_weights: bool) -> None:
        """q_weight and k_weight: identities where hedgehog needs them, else None."""
        self.register_parameter("q_weight", None)
        self.register_parameter("k_weight", None)
        if self.feature_map != "hedgehog":
            return
        if heads is None:
            raise InvalidArgument("feature_map 'hedgehog' has weights for each head: give heads")
        k_heads = heads if k_heads is None else k_heads
        if ties_weights and k_heads != heads:
            raise InvalidArgument(
                f"{heads} query heads and {k_heads} key heads cannot have the same weights; give "
                "ties_weights=False"
            )
        self.q_weight = _identities(heads, self.head_dim)
        if not ties_weights:
            self.k_weight = _identities(k_heads, self.head_dim)

    def _try_shares(self, heads: int | None) -> None:
        """Refuses shares and tiles that are illegal whatever the problem."""
        critical = 1 if callable(self.critical) else self.critical
        given = [x for x in (critical, self.negligible) if isinstance(x, (list, tuple))]
        heads = heads or (len(given[0]) if given else 1)
        x = torch.zeros(1, heads, 1, 16, device="cpu")
        select_tiles(x, x, critical=critical, **self._routing)

    @property
    def _routing(self) -> dict[str, Any]:
        names = ("negligible", "critical_mass", "block_q", "block_k", "scale")
        return {name: getattr(self, name) for name in names}

    def _classes(
        self,
        q: Tensor,
        k: Tensor,
        step: int | None,
        branch: str,
        sigma: float | None,
        lens: dict[str, Tensor | None],
    ) -> TileClasses:
        """Those of this call: new ones, or those that the branch keeps."""
        grid = TileGrid(*q.shape[:3], k.shape[2], self.block_q, self.block_k)
        if self.refresh == 1 or torch.is_grad_enabled():
            return TileClasses(*self._select(q, k, grid, sigma, lens))
        if step is None:
            raise InvalidArgument(f"refresh={self.refresh} counts steps; call it with step=")
        kept = self.states.get(branch)
        if kept is None or not kept.serve(grid, q.device, int(step), self.refresh):
            kept = TileClasses(*self._select(q, k, grid, sigma, lens), chosen_at=int(step))
            self.states[branch] = kept
        kept.used_at = int(step)
        return kept

    def _select(
        self,
        q: Tensor,
        k: Tensor,
        grid: TileGrid,
        sigma: float | None,
        lens: dict[str, Tensor | None],
    ) -> tuple[TileMask, TileMask | None]:
        """The critical and the marginal tiles; None lets every query meet every key."""
        always = None
        if self.protected_queries or self.protected_keys:
            always = TileMask.of_tokens(
                grid, self.protected_queries, self.protected_keys, device=q.device
            )
        critical, marginal = select_tiles(
            q, k, critical=self._critical_at(sigma), always=always, **self._routing, **lens
        )
        return critical, marginal if self.linear == "marginal" else None

    def _critical_at(self, sigma: float | None) -> Shares:
        if not callable(self.critical):
            return self.critical
        if sigma is None:
            raise InvalidArgument(
                "critical is a function of sigma, which is not known here (where activations are "
                "recomputed it never is); call with sigma=, or give critical as a number"
            )
        return self.critical(sigma)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, classes: TileClasses, lens: dict[str, Any]
    ) -> Tensor:
        k_weight = self.q_weight if self.k_weight is None else self.k_weight
        out, linear_out = sparse_linear_attention(
            *(q, k, v),
            critical=classes.critical,
            marginal=classes.marginal,
            scale=self.scale,
            feature_map=self.feature_map,
            q_weight=_for_kernels(self.q_weight, q),
            k_weight=_for_kernels(k_weight, q),
            epsilon=self.epsilon,
            **lens,
        )
        correction = self.proj_l(linear_out.to(self.proj_l.weight.dtype)).to(out.dtype)
        if lens["q_lens"] is not None:  # the bias must not reach the padding
            positions = torch.arange(q.shape[2], device=q.device)
            is_valid = positions < lens["q_lens"][:, None]
            correction = correction.where(is_valid[:, None, :, None], 0)
        return out + correction

    def _attend_densely(
        self, q: Tensor, k: Tensor, v: Tensor, lens: dict[str, Tensor | None]
    ) -> Tensor:
        if not torch.compiler.is_compiling():
            warnings.warn(
                f"attention over {max(q.shape[2], k.shape[2])} tokens is dense: SLA begins at "
                f"min_length={self.min_length}",
                stacklevel=2,
            )
        return attention(q, k, v, scale=self.scale, **lens)

    def _record(
        self, q: Tensor, k: Tensor, critical: TileMask | None, step: int | None, branch: str
    ) -> None:
        """``critical`` None is dense."""
        grid = TileGrid(*q.shape[:3], k.shape[2], self.block_q, self.block_k)
        tiles = math.prod(grid.shape[2:])
        active = torch.full(grid.shape[:2], tiles) if critical is None else critical.count_by_head()
        step = 0 if step is None else int(step)
        self.statistics[:] = [
            StepStatistics(branch, step, critical is None, -math.inf, active, tiles)
        ]


@dataclass
class TileClasses:
    """The critical and the marginal tiles of a guidance branch, and their steps.

    ``marginal`` None lets every query meet every key. ``chosen_at``: the step that chose them;
    ``used_at``: the last one that used them.
    """

    critical: TileMask
    marginal: TileMask | None
    chosen_at: int = 0
    used_at: int = 0

    def serve(self, grid: TileGrid, device: torch.device, step: int, refresh: int) -> bool:
        """Whether a call at ``step`` may use them. One that does not come later begins anew."""
        is_same = self.critical.grid == grid and self.critical.words.device == device
        return is_same and self.used_at < step < self.chosen_at + refresh


def _identities(heads: int, head_dim: int) -> nn.Parameter:
    return nn.Parameter(torch.eye(head_dim).repeat(heads, 1, 1))


def _for_kernels(weight: Tensor | None, q: Tensor) -> Tensor | None:
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return None if weight is None else weight.to(dtype)


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidArgument(
            f"{name} must be {', '.join(choices[:-1])} or {choices[-1]}, got {value!r}"
        )


def _require_at_least(name: str, value: float, least: int) -> None:
    if not value >= least:
        raise InvalidArgument(f"{name} must be at least {least}, got {value}")

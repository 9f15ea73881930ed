"""The oracle: dense attention and its gradients in float64, straight from the formulas."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saccade import TileMask


@dataclass(frozen=True)
class Attention:
    """Results of one problem, heads first. Gradients are of sum(out * dout) + sum(lse * dlse)."""

    out: Tensor
    lse: Tensor
    dq: Tensor
    dk: Tensor
    dv: Tensor


@dataclass(frozen=True)
class Expected(Attention):
    """What is true, and the scales to measure errors by (docs/numerics.md, Where gradients cancel).

    dq and dk are differences: dS = P * dP - P * delta. Where one key holds nearly all of a row's
    weight the two terms cancel, and no arithmetic keeps more digits than its rounding of the terms;
    with a single key the true gradient is zero. Hence their errors are measured against the terms:
    the norm of the products of P * dP and of P * delta with k or q, added. For rows that spread
    their weight delta is small against dP, and this is the norm of the gradient itself.
    """

    max_logit: float
    dq_terms: float
    dk_terms: float


def expand_tiles(tiles: TileMask) -> Tensor:
    """Bool [batch, heads, q_len, k_len]: one element per logit."""
    grid = tiles.grid
    active = tiles.to_dense()
    active = active.repeat_interleave(grid.block_q, 2).repeat_interleave(grid.block_k, 3)
    return active[:, :, : grid.q_len, : grid.k_len]


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
    dlse: Tensor | None = None,
    *,
    tiles: TileMask | None = None,
    scale: float | None = None,
    q_lens: Tensor | None = None,
    k_lens: Tensor | None = None,
) -> Expected:
    """All tensors [batch, heads, length, head_dim], of any dtype; computed in float64."""
    batch, heads, q_len, head_dim = q.shape
    k_heads, k_len = k.shape[1:3]
    scale = head_dim**-0.5 if scale is None else scale

    valid_q = _valid_rows(q_lens, batch, q_len)
    valid_k = _valid_rows(k_lens, batch, k_len)
    q, dout = _zero_beyond(valid_q, q), _zero_beyond(valid_q, dout)
    k, v = _zero_beyond(valid_k, k), _zero_beyond(valid_k, v)
    dlse = torch.zeros(q.shape[:3]) if dlse is None else dlse
    dlse = dlse.double().where(valid_q[:, None, :], 0)
    k, v = (x.repeat_interleave(heads // k_heads, 1) for x in (k, v))

    active = (valid_q[:, :, None] & valid_k[:, None, :])[:, None].expand(-1, heads, -1, -1)
    if tiles is not None:
        active = active & expand_tiles(tiles)
    logits = scale * q @ k.mT
    lse = logits.masked_fill(~active, -torch.inf).logsumexp(-1)
    weights = torch.where(active, (logits - lse[..., None]).exp(), 0)
    out = weights @ v

    dweights = dout @ v.mT
    delta = ((dout * out).sum(-1) - dlse)[..., None]
    first, second = scale * weights * dweights, scale * weights * delta

    def sum_groups(gradient: Tensor) -> Tensor:
        return gradient.unflatten(1, (k_heads, -1)).sum(2)

    dq_first, dq_second = first @ k, second @ k
    dk_first, dk_second = sum_groups(first.mT @ q), sum_groups(second.mT @ q)

    return Expected(
        out=out,
        lse=lse,
        dq=dq_first - dq_second,
        dk=dk_first - dk_second,
        dv=sum_groups(weights.mT @ dout),
        max_logit=logits[active].abs().max().item() if active.any() else 0.0,
        dq_terms=(dq_first.norm() + dq_second.norm()).item(),
        dk_terms=(dk_first.norm() + dk_second.norm()).item(),
    )


def _valid_rows(lens: Tensor | None, batch: int, length: int) -> Tensor:
    if lens is None:
        return torch.ones(batch, length, dtype=torch.bool)
    return torch.arange(length) < lens[:, None]


def _zero_beyond(valid: Tensor, x: Tensor) -> Tensor:
    return x.detach().double().where(valid[:, None, :, None], 0)


# The caps of docs/numerics.md: relative L2 against float64 on the same inputs.
FORWARD_CAP = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}
GRADIENT_CAP = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
LSE_CAP = 1e-5  # absolute, times 1 + max|S|


def relative_error(actual: Tensor, expected: Tensor, scale: float | None = None) -> float:
    """|actual - expected| / |expected|, or / scale. Where that is 0, any difference is infinite."""
    difference = (actual.double() - expected).norm().item()
    scale = expected.norm().item() if scale is None else scale
    if difference == 0:
        return 0.0
    return difference / scale if scale > 0 else torch.inf


def assert_close(actual: Attention, expected: Expected, dtype: torch.dtype, what: object) -> None:
    """Every result is within its cap; ``what`` names the problem in the message."""
    errors = {
        "out": relative_error(actual.out, expected.out) / FORWARD_CAP[dtype],
        "lse": lse_error(actual.lse, expected) / LSE_CAP,
        "dq": relative_error(actual.dq, expected.dq, expected.dq_terms) / GRADIENT_CAP[dtype],
        "dk": relative_error(actual.dk, expected.dk, expected.dk_terms) / GRADIENT_CAP[dtype],
        "dv": relative_error(actual.dv, expected.dv) / GRADIENT_CAP[dtype],
    }
    # A NaN compares false with everything, so ask for "within" rather than for "beyond".
    beyond = {name: error for name, error in errors.items() if not error <= 1}
    assert not beyond, f"errors as multiples of their caps: {beyond}, for {what}"


def lse_error(lse: Tensor, expected: Expected) -> float:
    """Largest absolute difference over 1 + max|S|; infinite if the -inf rows differ."""
    empty = expected.lse == -torch.inf
    if not torch.equal(lse == -torch.inf, empty):
        return torch.inf
    difference = (lse.double() - expected.lse)[~empty].abs()
    return difference.max().item() / (1 + expected.max_logit) if difference.numel() else 0.0

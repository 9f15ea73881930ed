"""The operators torch.ops.saccade: loads the library, adds what only Python can register.

Importing this module is what makes ``torch.ops.saccade`` exist. Kernels and schemas are in C++
(python/bindings); here are the fake kernels, which torch.compile uses in place of data, and the
autograd formulas.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from .errors import Unsupported, call

torch.ops.load_library(Path(__file__).with_name("_saccade_ops.so"))

attention_forward = torch.ops.saccade.attention_forward.default
attention_backward = torch.ops.saccade.attention_backward.default
merge_partials = torch.ops.saccade.merge_partials.default
merge_partials_backward = torch.ops.saccade.merge_partials_backward.default
pool_tiles = torch.ops.saccade.pool_tiles.default
select_tiles = torch.ops.saccade.select_tiles.default
random_tiles = torch.ops.saccade.random_tiles.default
radial_tiles = torch.ops.saccade.radial_tiles.default
spatial_tiles = torch.ops.saccade.spatial_tiles.default
temporal_tiles = torch.ops.saccade.temporal_tiles.default
svg_tiles = torch.ops.saccade.svg_tiles.default
pooled_tiles = torch.ops.saccade.pooled_tiles.default
linear_forward = torch.ops.saccade.linear_forward.default
linear_backward = torch.ops.saccade.linear_backward.default
sparse_linear_forward = torch.ops.saccade.sparse_linear_forward.default
sparse_linear_backward = torch.ops.saccade.sparse_linear_backward.default
lite_step = torch.ops.saccade.lite_step.default
lite_finish_step = torch.ops.saccade.lite_finish_step.default
lite_error_targets = torch.ops.saccade.lite_error_targets.default
lite_measure_errors = torch.ops.saccade.lite_measure_errors.default
lite_errors = torch.ops.saccade.lite_errors.default
lite_calibrate_step = torch.ops.saccade.lite_calibrate_step.default
lite_observe_step = torch.ops.saccade.lite_observe_step.default
lite_choose_threshold = torch.ops.saccade.lite_choose_threshold.default
lite_check_rule = torch.ops.saccade.lite_check_rule.default
lite_schedule_json = torch.ops.saccade.lite_schedule_json.default
lite_plan_step = torch.ops.saccade.lite_plan_step.default
lite_schedule_table = torch.ops.saccade.lite_schedule_table.default
lite_dense_layers = torch.ops.saccade.lite_dense_layers.default
lite_require_match = torch.ops.saccade.lite_require_match.default
lite_step_number = torch.ops.saccade.lite_step_number.default
lite_must_reset = torch.ops.saccade.lite_must_reset.default
write_trace = torch.ops.saccade.write_trace.default
info = torch.ops.saccade.info.default


def _statistics_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


@torch.library.register_fake("saccade::attention_forward")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: Tensor | None = None,
    q_lens: Tensor | None = None,
    k_lens: Tensor | None = None,
    scale: float | None = None,
    block_q: int = 128,
    block_k: int = 64,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=_statistics_dtype(q))


@torch.library.register_fake("saccade::attention_backward")
def _(
    q: Tensor, k: Tensor, v: Tensor, *_other_inputs: Tensor | float | None
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


@torch.library.register_fake("saccade::merge_partials")
def _(outs: list[Tensor], lses: list[Tensor]) -> tuple[Tensor, Tensor]:
    return torch.empty_like(outs[0]), torch.empty_like(lses[0])


@torch.library.register_fake("saccade::merge_partials_backward")
def _(
    outs: list[Tensor],
    lses: list[Tensor],
    out: Tensor,
    lse: Tensor,
    dout: Tensor,
    dlse: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    return [torch.empty_like(o) for o in outs], [torch.empty_like(x) for x in lses]


@torch.library.register_fake("saccade::pool_tiles")
def _(x: Tensor, lens: Tensor | None = None, block: int = 64) -> Tensor:
    tiles = -(-x.shape[2] // block)
    return x.new_empty((*x.shape[:2], tiles, x.shape[3]), dtype=_statistics_dtype(x))


@torch.library.register_fake("saccade::select_tiles")
def _(
    q_means: Tensor, k_means: Tensor, *_other_inputs: Tensor | float | None
) -> tuple[Tensor, Tensor]:
    shape = (*q_means.shape[:3], -(-k_means.shape[2] // 64))
    words = q_means.new_empty(shape, dtype=torch.int64)
    return words, torch.empty_like(words)


def _fake_static_tiles(grid: list[int], *_other_inputs: object) -> Tensor:
    batch, heads, q_len, k_len, block_q, block_k = grid
    shape = (batch, heads, -(-q_len // block_q), -(-k_len // (block_k * 64)))
    return torch.empty(shape, dtype=torch.int64)


for _name in ("random", "radial", "spatial", "temporal"):
    torch.library.register_fake(f"saccade::{_name}_tiles")(_fake_static_tiles)


@torch.library.register_fake("saccade::svg_tiles")
def _(q: Tensor, k: Tensor, v: Tensor, spatial: Tensor, *_other_inputs: object) -> Tensor:
    return torch.empty_like(spatial)


@torch.library.register_fake("saccade::pooled_tiles")
def _(
    q: Tensor,
    k: Tensor,
    q_lens: Tensor | None,
    k_lens: Tensor | None,
    scale: float | None,
    block_q: int,
    block_k: int,
    *_other_inputs: object,
) -> Tensor:
    shape = (*q.shape[:2], -(-q.shape[2] // block_q), -(-k.shape[2] // (block_k * 64)))
    return q.new_empty(shape, dtype=torch.int64)


@torch.library.register_fake("saccade::linear_forward")
def _(q: Tensor, k: Tensor, v: Tensor, *_other_inputs: Tensor | float | str | None) -> Tensor:
    return torch.empty_like(q)


def _linear_gradients(
    q: Tensor, k: Tensor, v: Tensor, q_weight: Tensor | None, k_weight: Tensor | None
) -> tuple[Tensor, ...]:
    weights = (
        q.new_empty(0, dtype=torch.float32) if w is None else w for w in (q_weight, k_weight)
    )
    return tuple(torch.empty_like(x) for x in (q, k, v, *weights))


@torch.library.register_fake("saccade::linear_backward")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    dout: Tensor,
    tiles: Tensor | None = None,
    q_lens: Tensor | None = None,
    k_lens: Tensor | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    *_options: float | str,
) -> tuple[Tensor, ...]:
    return _linear_gradients(q, k, v, q_weight, k_weight)


@torch.library.register_fake("saccade::sparse_linear_forward")
def _(
    q: Tensor, k: Tensor, v: Tensor, *_other_inputs: Tensor | float | str | None
) -> tuple[Tensor, Tensor, Tensor]:
    lse = q.new_empty(q.shape[:3], dtype=_statistics_dtype(q))
    return torch.empty_like(q), lse, torch.empty_like(q)


@torch.library.register_fake("saccade::sparse_linear_backward")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    linear_out: Tensor,
    dout: Tensor,
    dlse: Tensor | None,
    dlinear_out: Tensor,
    critical: Tensor,
    marginal: Tensor | None = None,
    q_lens: Tensor | None = None,
    k_lens: Tensor | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    *_options: float | str | None,
) -> tuple[Tensor, ...]:
    return _linear_gradients(q, k, v, q_weight, k_weight)


@torch.library.register_fake("saccade::lite_step")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor,
    ref: Tensor | None,
    spent: Tensor | None,
    last_scores: Tensor | None,
    q_lens: Tensor | None,
    k_lens: Tensor | None,
    scale: float | None,
    block_q: int,
    block_k: int,
    step: int,
    is_first: bool,
    is_partial: bool,
    is_dense: bool,
    thresholds: list[float],
    measure: int,
    reference: int,
    order: int,
    mass_budget: float | None,
    reprobe_period: int,
    skips_values: bool,
    *_ranges: list[int],
) -> tuple[Tensor, ...]:
    lse = q.new_empty(q.shape[:3], dtype=_statistics_dtype(q))
    active = q.new_empty(q.shape[:2], dtype=torch.int64)
    is_probing = reprobe_period > 0 and not is_partial
    probed_mass = q.new_empty(q.shape[:2] if is_probing else (0,), dtype=torch.float32)
    tiles = (*mask.shape[:3], -(-k.shape[2] // block_k))
    return (
        *(torch.empty_like(q), lse, active, probed_mass),
        torch.empty_like(mask) if is_partial else mask.new_empty(0),
        q.new_empty(tiles if is_partial else (0,), dtype=torch.float32),
    )


@torch.library.register_fake("saccade::lite_finish_step")
def _(lse: Tensor, *other_inputs: Any) -> Tensor:
    is_probing = other_inputs[9]
    return lse.new_empty(lse.shape[:2] if is_probing else (0,), dtype=torch.float32)


def _dense_gradient(dout: Tensor | None, out: Tensor) -> Tensor:
    """A gradient that the kernels can read: out.sum(), for one, hands back a tensor of stride 0."""
    if dout is None:
        return torch.zeros_like(out)
    return dout if dout.stride(-1) == 1 else dout.contiguous()


def _save_attention(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale, ctx.block_q, ctx.block_k = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _differentiate_attention(
    ctx: Any, dout: Tensor | None, dlse: Tensor | None
) -> tuple[Tensor | None, ...]:
    q, k, v, tiles, q_lens, k_lens, out, lse = ctx.saved_tensors
    gradients = call(
        attention_backward,
        *(q, k, v, out, lse, _dense_gradient(dout, out), dlse),
        *(tiles, q_lens, k_lens, ctx.scale, ctx.block_q, ctx.block_k),
    )
    return (*gradients, None, None, None, None, None, None)


def _save_partials(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    outs, lses = inputs
    ctx.save_for_backward(*outs, *lses, *output)
    ctx.set_materialize_grads(False)


def _differentiate_partials(
    ctx: Any, dout: Tensor | None, dlse: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    *partials, out, lse = ctx.saved_tensors
    outs, lses = partials[: len(partials) // 2], partials[len(partials) // 2 :]
    return call(merge_partials_backward, outs, lses, out, lse, _dense_gradient(dout, out), dlse)


def _save_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.feature_map, ctx.epsilon, ctx.block_q, ctx.block_k = inputs
    ctx.save_for_backward(*tensors, output)


def _differentiate_linear(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, tiles, q_lens, k_lens, q_weight, k_weight, out = ctx.saved_tensors
    dq, dk, dv, dq_weight, dk_weight = call(
        linear_backward,
        *(q, k, v, out, _dense_gradient(dout, out), tiles, q_lens, k_lens, q_weight, k_weight),
        *(ctx.feature_map, ctx.epsilon, ctx.block_q, ctx.block_k),
    )
    weights = (None, None) if q_weight is None else (dq_weight, dk_weight)
    return (dq, dk, dv, None, None, None, *weights, None, None, None, None)


def _save_sparse_linear(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.scale, ctx.feature_map, ctx.epsilon, ctx.block_q, ctx.block_k = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.set_materialize_grads(False)


def _differentiate_sparse_linear(
    ctx: Any, dout: Tensor | None, dlse: Tensor | None, dlinear_out: Tensor | None
) -> tuple[Tensor | None, ...]:
    *inputs, out, lse, linear_out = ctx.saved_tensors
    q, k, v, critical, marginal, q_lens, k_lens, q_weight, k_weight = inputs
    dq, dk, dv, dq_weight, dk_weight = call(
        sparse_linear_backward,
        *(q, k, v, out, lse, linear_out, _dense_gradient(dout, out), dlse),
        *(_dense_gradient(dlinear_out, linear_out), critical, marginal, q_lens, k_lens),
        *(q_weight, k_weight, ctx.scale, ctx.feature_map, ctx.epsilon, ctx.block_q, ctx.block_k),
    )
    weights = (None, None) if q_weight is None else (dq_weight, dk_weight)
    return (dq, dk, dv, None, None, None, None, *weights, None, None, None, None, None)


def _refuse_second_derivative(ctx: Any, *gradients: Tensor) -> NoReturn:
    raise Unsupported("saccade has first derivatives only; call backward without create_graph=True")


torch.library.register_autograd(
    "saccade::attention_forward", _differentiate_attention, setup_context=_save_attention
)
torch.library.register_autograd(
    "saccade::merge_partials", _differentiate_partials, setup_context=_save_partials
)
torch.library.register_autograd(
    "saccade::linear_forward", _differentiate_linear, setup_context=_save_linear
)
torch.library.register_autograd(
    "saccade::sparse_linear_forward",
    _differentiate_sparse_linear,
    setup_context=_save_sparse_linear,
)
for _backward in ("attention", "merge_partials", "linear", "sparse_linear"):
    torch.library.register_autograd(f"saccade::{_backward}_backward", _refuse_second_derivative)

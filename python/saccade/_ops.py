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
lite_step = torch.ops.saccade.lite_step.default
lite_plan_step = torch.ops.saccade.lite_plan_step.default
lite_step_number = torch.ops.saccade.lite_step_number.default
lite_must_reset = torch.ops.saccade.lite_must_reset.default
info = torch.ops.saccade.info.default


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
    lse_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=lse_dtype)


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


@torch.library.register_fake("saccade::lite_step")
def _(
    q: Tensor, k: Tensor, v: Tensor, state: Tensor, *_other_inputs: object
) -> tuple[Tensor, Tensor, Tensor]:
    lse_dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    lse = q.new_empty(q.shape[:3], dtype=lse_dtype)
    return torch.empty_like(q), lse, q.new_empty(q.shape[:2], dtype=torch.int64)


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


def _refuse_second_derivative(ctx: Any, *gradients: Tensor) -> NoReturn:
    raise Unsupported("saccade has first derivatives only; call backward without create_graph=True")


torch.library.register_autograd(
    "saccade::attention_forward", _differentiate_attention, setup_context=_save_attention
)
torch.library.register_autograd(
    "saccade::merge_partials", _differentiate_partials, setup_context=_save_partials
)
for _backward in ("saccade::attention_backward", "saccade::merge_partials_backward"):
    torch.library.register_autograd(_backward, _refuse_second_derivative)

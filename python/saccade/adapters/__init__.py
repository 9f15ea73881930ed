"""Sparse attention inside the models of diffusers.

saccade.enable(pipeline, threshold=-6.0)
pipeline(...)
print(saccade.summary(pipeline))
saccade.disable(pipeline)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ..errors import InvalidArgument
from ..space_time import Box
from .enabled import enabled_transformers, load_hooks
from .fingerprint import require_steps
from .methods import make_attentions, with_schedule
from .saved_states import load_state, save_state
from .summary import LayerSummary, Summary

__all__ = ["disable", "enable", "load_state", "save_state", "summary"]


def enable(
    model: Any,
    method: str | Callable[[str], Callable[..., Tensor]] = "lite",
    *,
    token_order: str | Box = "frames",
    **options: Any,
) -> None:
    """Lets saccade compute every self-attention of a diffusers model, until saccade.disable.

    Projections, norms, rotary embedding and cross-attention stay with diffusers. A layer is known
    by its path from ``model``, such as "blocks.0.attn1" or "transformer.blocks.0.attn1". Steps are
    counted from the timesteps that a transformer is called with, for each transformer alone: a
    timestep that falls is the next step, one that rises begins a generation.

    Each guidance branch needs a name: diffusers' pipelines give it with
    ``transformer.cache_context("cond")`` and ``("uncond")``. A call without a context is "cond". A
    branch is called once at each step; a second call raises InvalidArgument, but for one in a
    context at step 0, which begins a generation: so a generation of one step can be repeated.

    Args:
        model: a WanTransformer3DModel or another diffusers model with WanAttention, or a pipeline,
            of which ``transformer`` and ``transformer_2`` are enabled.
        method: "lite", "sla" (see below), "dense" (all tiles), one of the baselines "random",
            "radial", "svg" and "pooled" (see saccade.baselines; choosing tiles is part of the
            measured time), or a callable ``factory(path: str) -> attention``, with
            ``attention(q, k, v, *, step: int, branch: str) -> out``, all four tensors [batch,
            length, heads, head_dim]; with a parameter ``sigma`` it gets the noise level too, the
            timestep over the number of training timesteps, and with ``video`` the VideoLayout of
            its tokens, None where that is unknown. Where it has them, ``attention.reset()`` is
            called before each generation, and the last of ``attention.statistics``, with the fields
            of LiteAttention's entries, goes into the summary.
        token_order: "frames", as diffusers numbers the tokens; a box (frames, rows, columns), as
            for saccade.token_order, so that tiles are boxes in space-time; or "space_time", the box
            of saccade.choose_box for each latent and the block sizes of the method (128 x 64 where
            it has none). Attention gets q, k and v in this order; what the model returns is the
            same up to rounding. Not with protected ranges, and for WanTransformer3DModel only.
        **options: for "lite" the arguments of LiteAttention but for ``scale``, ``layout`` and
            ``layer``, and ``dense_layers``: paths of the self-attentions that stay dense, or their
            numbers from 0. The patterns of the schedule must match a layer each. ``schedule`` may
            be the path of a file. One with a fingerprint is for the model, shape, steps and rule
            that it was calibrated for: what differs is refused with its name, here or at the first
            call, and block sizes, reference and order that are not given are those of it. For the
            baselines the arguments of their functions, ``block_q``, ``block_k``, ``dense_layers``,
            and ``schedule``, of which they take what is dense and what is protected: the same
            schedule makes a fair comparison. For "sla" the arguments of SparseLinearAttention but
            for ``head_dim``, ``heads``, ``k_heads``, ``scale`` and ``layout``; ``layers``, a dict
            from patterns of paths to arguments that these layers have instead (a later pattern
            wins); and ``dense_layers``: numbers, paths or patterns. ``min_length`` is 512 tokens
            unless it is given: below, dense attention was measured to be faster.

    "sla" makes one SparseLinearAttention for each layer and registers it as ``PATH.sla``, so that
    ``parameters``, ``state_dict``, ``to`` and optimizers see its weights, in float32; the model can
    be trained. A call under autograd is one of training: it needs no cache context, and its
    timesteps mean nothing; the summary has the last one, as branch "training".
    saccade.save_sla keeps the weights, and saccade.load_sla reads them.

    Raises InvalidArgument or Unsupported, and then has changed nothing; a call of the model raises
    Unsupported for what the attention cannot do (masks, context parallelism; "lite": gradients).
    The model's own weights and configuration are not touched.
    """
    hooks = load_hooks()
    transformers = hooks.transformers_of(model)
    for prefix, transformer in transformers.items():
        if hooks.hook_of(transformer) is not None:
            raise InvalidArgument(
                f"{prefix}{type(transformer).__name__} is enabled already; saccade.disable it first"
            )
    modules = {
        prefix: hooks.self_attentions(transformer, prefix)
        for prefix, transformer in transformers.items()
    }
    options = with_schedule(method, options)
    every_module = {path: module for found in modules.values() for path, module in found.items()}
    attentions = make_attentions(method, options, every_module)
    hooks.require_video(transformers, method, token_order)
    boxes = hooks.boxes_of(transformers, token_order, options)
    expected = getattr(options.get("schedule"), "fingerprint", None)
    if expected is not None:
        expected.require_match(hooks.fingerprint_of(model, token_order))
    for prefix, transformer in transformers.items():
        hooks.install(
            transformer,
            modules[prefix],
            attentions,
            hooks.num_train_timesteps_of(model),
            boxes,
            partial(require_steps, expected, model),
            is_strict=method != "sla",
        )


def disable(model: Any) -> None:
    """Gives the attention of ``model``, given as to saccade.enable, back to diffusers.

    The model is as it was before saccade.enable. Raises InvalidArgument if it is not enabled.
    """
    hooks = load_hooks()
    for transformer in enabled_transformers(hooks, model):
        hooks.remove(transformer)


def summary(model: Any) -> Summary:
    """What the layers of an enabled model or pipeline have computed in their last generation.

    A snapshot: later calls do not change it, but for the ``attention`` objects. Raises
    InvalidArgument if ``model`` is not enabled.
    """
    hooks = load_hooks()
    found = [hooks.hook_of(transformer) for transformer in enabled_transformers(hooks, model)]
    layers = [
        LayerSummary(layer.path, layer.attention, tuple(layer.calls), hook.token_order)
        for hook in found
        for layer in hook.layers
    ]
    tables = [hook.table() for hook in found]
    return Summary(tuple(layers), tuple(table for table in tables if table is not None))

"""Sparse attention inside the models of diffusers.

saccade.enable(pipeline, threshold=-6.0)
pipeline(...)
print(saccade.summary(pipeline))
saccade.disable(pipeline)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from .. import lite_state
from ..errors import InvalidArgument, Unsupported
from ..lite import LiteAttention
from ..space_time import Box
from .fingerprint import require_steps
from .methods import make_attentions, with_schedule
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
        method: "lite", "dense" (all tiles), or a callable ``factory(path: str) -> attention``, with
            ``attention(q, k, v, *, step: int, branch: str) -> out``, all four tensors [batch,
            length, heads, head_dim]; with a parameter ``sigma`` it gets the noise level too, the
            timestep over the number of training timesteps. Where it has them,
            ``attention.reset()`` is called before each generation, and the last of
            ``attention.statistics``, with the fields of LiteAttention's entries, goes into the
            summary.
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
            call, and block sizes, reference and order that are not given are those of it.

    Raises InvalidArgument or Unsupported, and then has changed nothing; a call of the model raises
    Unsupported for what the attention cannot do (masks, context parallelism; "lite": gradients).
    Weights and configuration are not touched.
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
    paths = [path for found in modules.values() for path in found]
    options = with_schedule(options)
    attentions = make_attentions(method, options, paths)
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
        )


def disable(model: Any) -> None:
    """Gives the attention of ``model``, given as to saccade.enable, back to diffusers.

    The model is as it was before saccade.enable. Raises InvalidArgument if it is not enabled.
    """
    hooks = load_hooks()
    for transformer in _enabled(hooks, model):
        hooks.remove(transformer)


def summary(model: Any) -> Summary:
    """What the layers of an enabled model or pipeline have computed in their last generation.

    A snapshot: later calls do not change it, but for the ``attention`` objects. Raises
    InvalidArgument if ``model`` is not enabled.
    """
    hooks = load_hooks()
    found = [hooks.hook_of(transformer) for transformer in _enabled(hooks, model)]
    layers = [
        LayerSummary(layer.path, layer.attention, tuple(layer.calls), hook.token_order)
        for hook in found
        for layer in hook.layers
    ]
    tables = [hook.table() for hook in found]
    return Summary(tuple(layers), tuple(table for table in tables if table is not None))


def save_state(target: Any, path: str | Path) -> None:
    """Writes what LiteAttention keeps between steps, so that a generation can go on later.

    ``target``: a LiteAttention, or an enabled model or pipeline, of which every layer is saved and
    how far its transformers have come. ``path``: a safetensors file, which is written whole or not
    at all. Call it between two calls of a transformer, as in a pipeline's callback_on_step_end.

    Raises InvalidArgument if ``target`` is not enabled, or if a call is under way.
    """
    if isinstance(target, LiteAttention):
        lite_state.save(path, lite_state.pack(target), {"rule": lite_state.rule_of(target)})
        return
    hooks = load_hooks()
    tensors, rules = {}, {}
    for layer, attention in _lite_layers(hooks, target).items():
        tensors |= lite_state.pack(attention, f"{layer}/")
        rules[layer] = lite_state.rule_of(attention)
    positions = {
        prefix: {**hook.trajectory.position, "token_order": hook.given_token_order}
        for prefix, hook in _hooks_of(hooks, target).items()
    }
    lite_state.save(path, tensors, {"rules": rules, "trajectories": positions})


def load_state(target: Any, path: str | Path) -> None:
    """Goes on from a state that saccade.save_state wrote: the next step is the one after it.

    ``target`` is what was saved, or made anew with the same options. The outputs that follow are
    the same bits as without the interruption. Raises InvalidArgument for a file that is malformed,
    or of other layers or options, with the difference, and then has changed nothing.
    """
    tensors, facts = lite_state.load(path)
    if isinstance(target, LiteAttention):
        lite_state.require_rule(facts.get("rule"), target, path)
        target.states = lite_state.unpack(target, tensors)
        return
    hooks = load_hooks()
    attentions = _lite_layers(hooks, target)
    rules, positions = facts.get("rules"), facts.get("trajectories")
    if not isinstance(rules, dict) or not isinstance(positions, dict):
        raise InvalidArgument(f"{path} is the state of a LiteAttention, not of a model")
    if rules.keys() != attentions.keys():
        raise InvalidArgument(
            f"{path} is of other layers: {_only(rules, attentions)} in the file, "
            f"{_only(attentions, rules)} here"
        )
    states = {}
    for layer, attention in attentions.items():
        lite_state.require_rule(rules[layer], attention, path)
        own = {
            name.removeprefix(f"{layer}/"): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{layer}/")
        }
        states[layer] = lite_state.unpack(attention, own)
    transformers = _hooks_of(hooks, target)
    if positions.keys() != transformers.keys():
        raise InvalidArgument(
            f"{path} is of other transformers: {_only(positions, transformers)} in the file, "
            f"{_only(transformers, positions)} here"
        )
    timelines = {
        prefix: lite_state.timeline_of(positions[prefix], hook.given_token_order, path)
        for prefix, hook in transformers.items()
    }
    for layer, attention in attentions.items():
        attention.states = states[layer]
    for prefix, timeline in timelines.items():
        transformers[prefix].trajectory.move_to(*timeline)


def _hooks_of(hooks: ModuleType, model: Any) -> dict[str, Any]:
    """The hooks of the transformers of a model that are enabled, by prefix."""
    found = {prefix: hooks.hook_of(t) for prefix, t in hooks.transformers_of(model).items()}
    return {prefix: hook for prefix, hook in found.items() if hook is not None}


def _lite_layers(hooks: ModuleType, model: Any) -> dict[str, LiteAttention]:
    """The layers of an enabled model that have a state, by path."""
    return {
        layer.path: layer.attention
        for transformer in _enabled(hooks, model)
        for layer in hooks.hook_of(transformer).layers
        if isinstance(layer.attention, LiteAttention)
    }


def _only(these: dict[str, Any], those: dict[str, Any]) -> str:
    """The first of the keys that are in ``these`` alone, and how many there are."""
    names = [repr(key) for key in these if key not in those]
    if not names:
        return "nothing more"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _enabled(hooks: ModuleType, model: Any) -> list[Any]:
    """The transformers of ``model`` that are enabled: at least one."""
    found = [t for t in hooks.transformers_of(model).values() if hooks.hook_of(t) is not None]
    if not found:
        raise InvalidArgument(f"this {type(model).__name__} is not enabled; see saccade.enable")
    return found


def load_hooks() -> ModuleType:
    """What touches diffusers, which saccade does not depend on."""
    try:
        import diffusers  # noqa: F401
    except ImportError:
        raise Unsupported(
            "saccade.enable is for models of diffusers, which is not installed; "
            "`pip install diffusers` installs it"
        ) from None
    try:
        from . import diffusers_hooks

        diffusers_hooks.require_known_internals()
    except (ImportError, AttributeError) as error:
        raise Unsupported(
            f"this saccade cannot reach the attention of diffusers {metadata.version('diffusers')} "
            f"({error}); it was made for diffusers 0.42"
        ) from error
    return diffusers_hooks

"""States of LiteAttention in files: of one layer, and of all layers of an enabled model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from .. import lite_state
from ..errors import FileError, InvalidArgument
from ..lite import LiteAttention
from .enabled import enabled_transformers, load_hooks


def save_state(target: Any, path: str | Path) -> None:
    """Writes what LiteAttention keeps between steps, so that a generation can go on later.

    ``target``: a LiteAttention, or an enabled model or pipeline, of which every layer is saved and
    how far its transformers have come. ``path``: a safetensors file, which is written whole or not
    at all. Call it between two calls of a transformer, as in a pipeline's callback_on_step_end.

    Raises InvalidArgument if ``target`` is not enabled, or if a call is under way; FileError.
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
    the same bits as without the interruption. Raises FileError for a file that is unreadable or
    malformed, InvalidArgument for one of other layers or options, with the difference, and then has
    changed nothing.
    """
    tensors, facts = lite_state.load(path)
    if isinstance(target, LiteAttention):
        lite_state.require_rule(facts.get("rule"), target, path)
        target.states, target.shared = lite_state.unpack(target, tensors, path)
        return
    hooks = load_hooks()
    attentions, transformers = _lite_layers(hooks, target), _hooks_of(hooks, target)
    rules, positions = facts.get("rules"), facts.get("trajectories")
    if not isinstance(rules, dict) or not isinstance(positions, dict):
        raise InvalidArgument(f"{path} is the state of a LiteAttention, not of a model")
    _require_same(path, "layers", rules, attentions)
    _require_same(path, "transformers", positions, transformers)
    states, by_layer = {}, _by_layer(path, attentions, tensors)
    for layer, attention in attentions.items():
        lite_state.require_rule(rules[layer], attention, path)
        states[layer] = lite_state.unpack(attention, by_layer[layer], path)
    timelines = {
        prefix: lite_state.timeline_of(positions[prefix], hook.given_token_order, path)
        for prefix, hook in transformers.items()
    }
    for layer, attention in attentions.items():
        attention.states, attention.shared = states[layer]
    for prefix, timeline in timelines.items():
        transformers[prefix].trajectory.move_to(*timeline)


def _by_layer(
    path: str | Path, layers: Iterable[str], tensors: dict[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """The tensors of each layer, by their names within it. Raises FileError for one of none."""
    found: dict[str, dict[str, Tensor]] = {layer: {} for layer in layers}
    for name, tensor in tensors.items():
        layer = next((layer for layer in found if name.startswith(f"{layer}/")), None)
        if layer is None:
            raise FileError(f"{path}: {name!r} is of none of its layers")
        found[layer][name.removeprefix(f"{layer}/")] = tensor
    return found


def _require_same(path: str | Path, what: str, saved: dict[str, Any], here: dict[str, Any]) -> None:
    if saved.keys() != here.keys():
        raise InvalidArgument(
            f"{path} is of other {what}: {_only(saved, here)} in the file, "
            f"{_only(here, saved)} here"
        )


def _hooks_of(hooks: ModuleType, model: Any) -> dict[str, Any]:
    """The hooks of the transformers of a model that are enabled, by prefix."""
    found = {prefix: hooks.hook_of(t) for prefix, t in hooks.transformers_of(model).items()}
    return {prefix: hook for prefix, hook in found.items() if hook is not None}


def _lite_layers(hooks: ModuleType, model: Any) -> dict[str, LiteAttention]:
    """The layers of an enabled model that have a state, by path."""
    return {
        layer.path: layer.attention
        for transformer in enabled_transformers(hooks, model)
        for layer in hooks.hook_of(transformer).layers
        if isinstance(layer.attention, LiteAttention)
    }


def _only(these: dict[str, Any], those: dict[str, Any]) -> str:
    """The first of the keys that are in ``these`` alone, and how many there are."""
    names = [repr(key) for key in these if key not in those]
    if not names:
        return "nothing more"
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"

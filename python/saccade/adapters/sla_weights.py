"""SLA's weights in files, and under the names that the public repositories give them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError, InvalidArgument
from ..files import load_safetensors, write_atomically
from ..sla_module import SparseLinearAttention
from . import disable, enable
from .enabled import enabled_transformers, load_hooks
from .methods import pattern_of
from .sla_layers import SLA_NAME, options_of

FORMAT = "saccade.sla"
VERSION = 1

# Where each project keeps the module of block N: thu-ml/TurboDiffusion, its checkpoints converted
# to diffusers, SGLang, FastVideo.
LAYOUTS = {
    "saccade": f"attn1.{SLA_NAME}",
    "turbodiffusion": "self_attn.attn_op.local_attn",
    "diffusers": "attn1.attn_op.local_attn",
    "sglang": "attn1.local_attn",
    "fastvideo": "attn1.attn_impl",
}
_PLACES = "|".join(map(re.escape, LAYOUTS.values()))
_KEY = re.compile(
    rf"(?:net\.|model\.|module\.)?(.+?)\.(?:{_PLACES})"
    r"\.(proj_l\.weight|proj_l\.bias|q_weight|k_weight)"
)
# What a layer's weights were trained for; shares of tiles may differ.
_STRUCTURE = ("feature_map", "linear", "ties_weights", "epsilon", "block_q", "block_k")


def convert_sla_keys(tensors: Mapping[str, Tensor], layout: str = "saccade") -> dict[str, Tensor]:
    """SLA's weights of a Wan state dict, under the names of a layout; all else is left out.

    "saccade" blocks.N.attn1.sla.proj_l.weight, "turbodiffusion"
    blocks.N.self_attn.attn_op.local_attn.proj_l.weight, "diffusers" (TurboDiffusion's checkpoints
    converted to diffusers) blocks.N.attn1.attn_op.local_attn.proj_l.weight, "sglang"
    blocks.N.attn1.local_attn.proj_l.weight, "fastvideo" blocks.N.attn1.attn_impl.proj_l.weight;
    likewise proj_l.bias. Which one a key has is found out; a prefix "net.", "model." or "module."
    is dropped.

    Raises InvalidArgument if there are none, for keys of no known layout that end like SLA's, and
    for two keys of one weight.
    """
    if layout not in LAYOUTS:
        raise InvalidArgument(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    found: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None:
            if re.search(r"(^|\.)proj_l\.(weight|bias)$", key):
                raise InvalidArgument(
                    f"{key!r} is of no known layout; for block N they are "
                    + ", ".join(f"blocks.N.{place}.proj_l.*" for place in LAYOUTS.values())
                )
            continue
        name = f"{match[1]}.{LAYOUTS[layout]}.{match[2]}"
        if name in found:
            raise InvalidArgument(f"two keys are {name!r}, one of them {key!r}")
        found[name] = tensor
    if not found:
        raise InvalidArgument(f"none of {len(tensors)} keys is a weight of SLA")
    return found


def save_sla(model: Any, path: str | Path) -> None:
    """Writes the weights and options of SLA's layers, and the token order they were trained in.

    ``model`` is enabled with method "sla"; its own weights are not in the file, a safetensors file
    that is written whole or not at all. A ``critical`` that is a function is left out. Raises
    InvalidArgument or FileError.
    """
    hooks = load_hooks()
    layers = _sla_layers(hooks, model)
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "layers": {name: options_of(attention) for name, attention in layers.items()},
        "token_order": _token_order_of(hooks, model),
    }
    tensors = {name: x.detach().cpu().contiguous() for name, x in _weights_of(layers).items()}
    content = load_safetensors().save(tensors, {FORMAT: json.dumps(facts)})
    write_atomically(Path(path), content)


def load_sla(model: Any, source: str | Path | Mapping[str, Tensor]) -> None:
    """Gives SLA's layers their weights.

    Args:
        model: enabled with method "sla", or, for a file of saccade.save_sla, not enabled: then it
            is enabled with the options of the file.
        source: a file of saccade.save_sla; or a safetensors file or a state dict, of SLA's weights
            alone or of a whole transformer, with names of any layout of
            saccade.convert_sla_keys. Of these only SLA's weights are taken.

    Of an enabled model, feature map, variant, epsilon, tiles and token order must be those of the
    file; shares of tiles may differ. Raises FileError for a file that is unreadable or malformed;
    InvalidArgument with the names of what is missing, unexpected, of another shape or of other
    options, and then has changed nothing.
    """
    hooks = load_hooks()
    tensors, facts = (dict(source), None) if isinstance(source, Mapping) else _read(Path(source))
    name = "the state dict" if isinstance(source, Mapping) else str(source)
    found = convert_sla_keys(tensors)
    is_enabled = any(hooks.hook_of(t) is not None for t in hooks.transformers_of(model).values())
    if not is_enabled:
        _enable_as_saved(hooks, model, facts, name)
    try:
        layers = _sla_layers(hooks, model)
        if facts is not None:
            _require_structure(facts, layers, _token_order_of(hooks, model), name)
        weights = _weights_of(layers)
        _require_names(found, weights, name)
        _require_shapes(found, weights, name)
    except InvalidArgument:
        if not is_enabled:
            disable(model)
        raise
    with torch.no_grad():
        for key, weight in weights.items():
            weight.copy_(found[key])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors, and what save_sla says of them, if it wrote the file."""
    try:
        with load_safetensors().safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        facts = json.loads(metadata[FORMAT]) if FORMAT in metadata else None
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # whatever a malformed file makes of safetensors or JSON
        raise FileError(f"{path} is no safetensors file: {error}") from error
    match facts:
        case None:
            return tensors, None
        case {"version": version, "layers": dict(layers), "token_order": str() | list()} if (
            version == VERSION and all(isinstance(options, dict) for options in layers.values())
        ):
            return tensors, facts
    raise FileError(f"{path} does not say what its layers are, as version {VERSION} does")


def _enable_as_saved(
    hooks: ModuleType, model: Any, facts: dict[str, Any] | None, name: str
) -> None:
    if facts is None:
        raise InvalidArgument(
            f"{name} does not say which options its weights are for; saccade.enable the model with "
            "method='sla' first"
        )
    options = dict(facts["layers"])
    if any(None in chosen.values() for chosen in options.values()):
        raise InvalidArgument(
            f"{name} is of a model whose critical was a function, which no file holds; "
            "saccade.enable the model with it first"
        )
    paths = {
        _name_of(path): path
        for prefix, transformer in hooks.transformers_of(model).items()
        for path in hooks.self_attentions(transformer, prefix)
    }
    _require_same("layers", options, paths, name, may_lack=True)
    order = facts["token_order"]
    enable(
        model,
        "sla",
        layers={pattern_of(paths[layer]): chosen for layer, chosen in options.items()},
        dense_layers=[pattern_of(path) for layer, path in paths.items() if layer not in options],
        token_order=order if isinstance(order, str) else tuple(order),
    )


def _sla_layers(hooks: ModuleType, model: Any) -> dict[str, SparseLinearAttention]:
    found = {
        _name_of(layer.path): layer.attention
        for transformer in enabled_transformers(hooks, model)
        for layer in hooks.hook_of(transformer).layers
        if isinstance(layer.attention, SparseLinearAttention)
    }
    if not found:
        raise InvalidArgument(f"this {type(model).__name__} is enabled, but not with method 'sla'")
    return found


def _name_of(path: str) -> str:
    """A layer has one name in a transformer and in a pipeline of it."""
    return path.removeprefix("transformer.")


def _token_order_of(hooks: ModuleType, model: Any) -> str | list[int]:
    order = hooks.hook_of(enabled_transformers(hooks, model)[0]).given_token_order
    return order if isinstance(order, str) else list(order)


def _weights_of(layers: Mapping[str, SparseLinearAttention]) -> dict[str, Tensor]:
    return {
        f"{name}.{SLA_NAME}.{key}": weight
        for name, attention in layers.items()
        for key, weight in attention.state_dict(keep_vars=True).items()
    }


def _require_structure(
    facts: dict[str, Any],
    layers: Mapping[str, SparseLinearAttention],
    token_order: str | list[int],
    name: str,
) -> None:
    _require_same("layers", facts["layers"], layers, name)
    saved_order = facts["token_order"]
    different = (
        []
        if saved_order == token_order
        else [f"token_order {saved_order!r} in the file, {token_order!r} here"]
    )
    for layer, attention in layers.items():
        saved, here = facts["layers"][layer], options_of(attention)
        different += [
            f"{option} of {layer} {saved.get(option)!r} in the file, {here[option]!r} here"
            for option in _STRUCTURE
            if saved.get(option) != here[option]
        ]
    if different:
        raise InvalidArgument(f"{name} is of other options: {_first_of(different)}")


def _require_names(found: Iterable[str], expected: Iterable[str], name: str) -> None:
    _require_same("weights", found, expected, name)


def _require_same(
    what: str,
    found: Iterable[str],
    expected: Iterable[str],
    name: str,
    *,
    may_lack: bool = False,
) -> None:
    missing = [] if may_lack else [x for x in expected if x not in set(found)]
    unexpected = [x for x in found if x not in set(expected)]
    if missing or unexpected:
        raise InvalidArgument(
            f"{name} is of other {what}: missing {_first_of(missing)}; "
            f"unexpected {_first_of(unexpected)}"
        )


def _require_shapes(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], name: str) -> None:
    different = [
        f"{key} {list(found[key].shape)} in the file, {list(weight.shape)} here"
        for key, weight in expected.items()
        if found[key].shape != weight.shape
    ]
    if different:
        raise InvalidArgument(f"{name} has weights of other shapes: {_first_of(different)}")


def _first_of(names: list[str]) -> str:
    """The first ones, and how many more there are."""
    if not names:
        return "nothing"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more

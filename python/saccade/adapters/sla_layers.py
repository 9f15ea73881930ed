"""SLA in the layers of a model: which are dense, and the module of each of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from ..errors import InvalidArgument
from ..sla_module import SparseLinearAttention

SLA_NAME = "sla"  # of the submodule of a self-attention
MIN_LENGTH = 512  # tokens; unless it is given. docs/sla.md has the measurement

OPTIONS = (
    *("critical", "negligible", "critical_mass", "feature_map", "linear", "ties_weights"),
    *("epsilon", "block_q", "block_k", "refresh", "min_length"),
    *("protected_queries", "protected_keys"),
)


def make(
    options: Mapping[str, Any], modules: Mapping[str, nn.Module]
) -> dict[str, SparseLinearAttention]:
    """The SparseLinearAttention of each self-attention, on its device, not registered yet.

    Raises InvalidArgument for illegal options.
    """
    own = {"min_length": MIN_LENGTH}
    own |= {name: value for name, value in options.items() if name in OPTIONS}
    of_layers = options.get("layers") or {}
    for pattern, chosen in of_layers.items():
        _require_match("layers", pattern, modules)
        for name in chosen:
            if name not in OPTIONS:
                raise InvalidArgument(
                    f"layers has the option {name!r} for {pattern!r}; a layer has "
                    f"{', '.join(OPTIONS)}"
                )
    made = {}
    for path, module in modules.items():
        if hasattr(module, SLA_NAME):
            raise InvalidArgument(
                f"{path} has an attribute {SLA_NAME!r} already, the name of what method 'sla' adds"
            )
        chosen = dict(own)
        for pattern, overrides in of_layers.items():
            chosen |= overrides if fnmatchcase(path, pattern) else {}
        made[path] = _module_for(module, chosen)
    return made


def dense_paths(options: Mapping[str, Any], paths: Sequence[str]) -> set[str]:
    """The layers that ``dense_layers`` names by number, path or pattern."""
    given = options.get("dense_layers", ())
    found = set()
    for layer in [given] if isinstance(given, (str, int)) else given:
        if isinstance(layer, int):
            if not 0 <= layer < len(paths):
                raise InvalidArgument(
                    f"dense_layers has {layer}, but the self-attentions are 0 to {len(paths) - 1}"
                )
            found.add(paths[layer])
        else:
            found |= _require_match("dense_layers", layer, paths)
    if len(found) == len(paths):
        raise InvalidArgument("dense_layers leaves no layer to SLA; method='dense' is for that")
    return found


def options_of(attention: SparseLinearAttention) -> dict[str, Any]:
    """What a file says of a layer. A ``critical`` that is a function is None there."""
    found = {name: getattr(attention, name) for name in OPTIONS if name != "ties_weights"}
    found["ties_weights"] = attention.k_weight is None
    if callable(found["critical"]):
        found["critical"] = None
    return found


def _require_match(name: str, pattern: str, paths: Any) -> set[str]:
    found = {path for path in paths if path == pattern or fnmatchcase(path, pattern)}
    if not found:
        raise InvalidArgument(
            f"{name} has {pattern!r}, which matches no self-attention; they are "
            f"{', '.join(list(paths)[:3])}{', ...' if len(paths) > 3 else ''}"
        )
    return found


def _module_for(module: nn.Module, options: dict[str, Any]) -> SparseLinearAttention:
    head_dim = module.inner_dim // module.heads
    attention = SparseLinearAttention(head_dim, heads=module.heads, layout="bshd", **options)
    return attention.to(next(module.parameters()).device)

"""How one self-attention of diffusers comes to call saccade.

The attention dispatcher of diffusers has no public way in. A self-attention gets a copy of its
processor that asks the dispatcher for a backend of its own, so that a layer is known by its path
and never by the order of calls.
"""

from __future__ import annotations

import copy
import itertools
import weakref
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry
from torch import Tensor, nn

from ..errors import Unsupported
from .layer import Layer

_TABLES = ("_backends", "_constraints", "_supported_arg_names")
_numbers = itertools.count()

# The backends in diffusers' tables. A layer goes with its model, even one that is dropped while it
# is enabled; its backend stays until the next one is made. The garbage collector must not take it
# out: compiled code watches the tables, and does not survive a change while it is being made.
_layers: dict[AttentionBackendName, weakref.ref[Layer]] = {}


def require_known_dispatcher() -> None:
    """Raises AttributeError where diffusers' dispatcher is not as this file needs it."""
    tables = [getattr(_AttentionBackendRegistry, name) for name in _TABLES]
    if not (issubclass(AttentionBackendName, str) and all(isinstance(t, dict) for t in tables)):
        raise AttributeError("its attention backends are not kept by name in dicts")
    _ = _AttentionBackendRegistry.register


class Redirection:
    """Makes ``module`` call ``layer``, from its construction to ``undo``.

    ``backend`` stays in the dispatcher's tables until unregister_backends.
    """

    def __init__(self, module: nn.Module, layer: Layer) -> None:
        self.backend = _register_backend(layer)
        self._module = module
        self._original = module.processor
        self._replacement = copy.copy(module.processor)
        self._replacement._attention_backend = self.backend
        module.processor = self._replacement

    def holds(self) -> bool:
        """Whether nobody has exchanged the processor or its backend since."""
        processor = self._module.processor
        return processor is self._replacement and processor._attention_backend is self.backend

    def undo(self) -> None:
        self._module.processor = self._original


def unregister_backends(backends: list[AttentionBackendName]) -> None:
    for backend in backends:
        _layers.pop(backend, None)
        for table in _TABLES:
            getattr(_AttentionBackendRegistry, table).pop(backend, None)


def _register_backend(layer: Layer) -> AttentionBackendName:
    """A backend that calls ``layer``. The enum does not list it, so nobody else can choose it."""
    unregister_backends([backend for backend, known in _layers.items() if known() is None])
    name = f"saccade_{next(_numbers)}_{layer.path}"
    backend = str.__new__(AttentionBackendName, name)
    backend._name_ = backend._value_ = name
    _layers[backend] = weakref.ref(layer)
    _AttentionBackendRegistry.register(backend)(_backend_function(layer.path, _layers[backend]))
    return backend


def _backend_function(path: str, known: weakref.ref[Layer]) -> Callable[..., Tensor]:
    # The dispatcher passes those arguments that this signature has. Grouped heads need no flag:
    # the shapes of query and key tell.
    @torch.compiler.disable
    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        _parallel_config: Any = None,
    ) -> Tensor:
        refused = {
            "attn_mask": attn_mask is not None,
            "dropout_p": dropout_p != 0,
            "is_causal": is_causal,
            "scale": scale is not None,
            "a parallel config": _parallel_config is not None,
        }
        for name, is_given in refused.items():
            if is_given:
                raise Unsupported(
                    f"{path} was called with {name}, which saccade does not support there; "
                    "call it without, or saccade.disable the model"
                )
        layer = known()
        if layer is None:
            raise Unsupported(
                f"{path} is a copy from a model that is gone; saccade.disable a model before "
                "copying its parts"
            )
        return layer.attend(query, key, value)

    return attend

"""The models that saccade is enabled for, and the way to them through diffusers."""

from __future__ import annotations

from importlib import metadata
from types import ModuleType
from typing import Any

from ..errors import InvalidArgument, Unsupported


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


def enabled_transformers(hooks: ModuleType, model: Any) -> list[Any]:
    """The transformers of ``model`` that are enabled: at least one."""
    found = [t for t in hooks.transformers_of(model).values() if hooks.hook_of(t) is not None]
    if not found:
        raise InvalidArgument(f"this {type(model).__name__} is not enabled; see saccade.enable")
    return found

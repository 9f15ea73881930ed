"""What tells models, token orders and generations apart in the fingerprint of a schedule."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from .. import _ops
from ..errors import call
from ..lite_schedule import Fingerprint
from ..space_time import Box

_SAMPLES = 64  # weights of each self-attention that tell models of one configuration apart


def identity_of(transformer: Any, self_attentions: Iterable[nn.Module]) -> str:
    """Class, and a hash of the configuration and of a few weights of each self-attention.

    Weights count as rounded to bf16, so that a model in f32 and its copy in bf16 are one.
    """
    config = {name: x for name, x in transformer.config.items() if not name.startswith("_")}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for module in self_attentions:
        weight = getattr(getattr(module, "to_q", None), "weight", None)
        if weight is not None and weight.is_floating_point():
            sample = weight.detach().flatten()[:_SAMPLES].to("cpu", torch.bfloat16)
            digest.update(sample.view(torch.int16).numpy().tobytes())
    return f"{type(transformer).__name__} {digest.hexdigest()[:12]}"


def text_of(token_order: str | Box) -> str:
    """A box as "4x4x8"."""
    return token_order if isinstance(token_order, str) else "x".join(map(str, token_order))


def scheduled_steps(model: Any) -> int:
    """Steps of the generation that a pipeline has begun; 0 for a model without a scheduler."""
    timesteps = getattr(getattr(model, "scheduler", None), "timesteps", None)
    if timesteps is None or len(timesteps) == 0:
        return 0
    # Some schedulers call twice at a timestep, which is one step.
    return call(_ops.lite_step_number, list(map(float, timesteps))) + 1


def require_steps(expected: Fingerprint | None, model: Any) -> None:
    """Raises InvalidArgument where a generation has other steps than were expected."""
    if expected is not None:
        expected.require_match(Fingerprint(steps=scheduled_steps(model)))

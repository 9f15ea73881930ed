"""What the demo needs of a model that draws clips."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanPipeline
from torch import Tensor

from ..errors import InvalidArgument
from ..lite_schedule import LiteSchedule
from .classifier import Classifier

OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Shape:
    """Of a clip, in frames and pixels. None is the model's own choice."""

    frames: int | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Sampling:
    """How a clip is drawn: denoising steps, and the scale of classifier-free guidance."""

    steps: int
    guidance: float

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidArgument(f"steps must be at least 1, got {self.steps}")
        if not 0 <= self.guidance < float("inf"):
            raise InvalidArgument(f"guidance must be a number from 0, got {self.guidance:g}")


@dataclass(frozen=True)
class Defaults:
    """What is drawn where the user does not say.

    ``dense_first_steps``: of LiteAttention; the first steps decide what is drawn where, and what
    is skipped there costs the most.
    """

    prompts: tuple[str, ...]
    thresholds: tuple[float, ...]
    study_thresholds: tuple[float, ...]
    long_frames: int
    sampling: Sampling
    dense_first_steps: int


class Model(ABC):
    """Draws clips; attention is exchanged in its ``pipeline``.

    ``fingerprint`` tells models apart. ``training_log`` is empty, and ``classifier`` and
    ``schedule``, which saccade.calibrate made for its default clips, are None where there is none.
    """

    name: str
    description: str
    fingerprint: str
    defaults: Defaults
    pipeline: WanPipeline
    training_log: list[dict[str, Any]]
    classifier: Classifier | None
    schedule: LiteSchedule | None

    @abstractmethod
    def draw(
        self, prompt: str, seed: int, shape: Shape, sampling: Sampling, on_step: OnStep
    ) -> Tensor:
        """A clip float32 [3, frames, height, width] on the CPU, values in 0 to 1.

        Equal arguments start from equal noise. ``on_step(i)`` is called after denoising step i.
        """

    @abstractmethod
    def tokens(self, shape: Shape) -> int:
        """Length of the self-attention of a clip."""

    @abstractmethod
    def check_prompt(self, prompt: str) -> None:
        """Raises InvalidArgument for a prompt that the model does not understand."""

    @abstractmethod
    def check_shape(self, shape: Shape) -> None:
        """Raises InvalidArgument for a shape that the model cannot draw."""


def dtype_for(device: torch.device) -> torch.dtype:
    """What weights are computed in."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def after_each_step(on_step: OnStep) -> Callable[..., dict[str, Any]]:
    """``on_step`` as a callback_on_step_end of diffusers, which changes no tensor."""

    def callback(_pipeline: Any, step: int, _timestep: Any, _tensors: Any) -> dict[str, Any]:
        on_step(step)
        return {}

    return callback


def require_multiples_of_16(shape: Shape) -> None:
    """What every Wan needs of height and width, in pixels."""
    for name, value in (("height", shape.height), ("width", shape.width)):
        if value is not None and (value < 16 or value % 16):
            nearest = max(16, round(value / 16) * 16)
            raise InvalidArgument(
                f"{name} must be a multiple of 16, got {value}; {nearest} is nearest"
            )

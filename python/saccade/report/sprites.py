"""Clips and masks as data that a page can hold."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .contents import Clip, MaskHistory

MAX_FRAMES = 32
MAX_WIDTH = 256


@dataclass(frozen=True)
class Sprite:
    """All frames of a clip side by side in one PNG."""

    uri: str
    frames: int
    width: int
    height: int


def sprite_of(clip: Clip) -> Sprite:
    """Long clips lose frames and wide ones pixels: at most MAX_FRAMES of MAX_WIDTH pixels."""
    frames = clip.frames.transpose(0, 1)
    if len(frames) > MAX_FRAMES:
        frames = frames[torch.linspace(0, len(frames) - 1, MAX_FRAMES).round().long()]
    if (wide := frames.shape[3]) > MAX_WIDTH:
        size = (round(frames.shape[2] * MAX_WIDTH / wide), MAX_WIDTH)
        frames = functional.interpolate(frames, size, mode="area")
    count, _, height, width = frames.shape
    strip = frames.permute(2, 0, 3, 1).reshape(height, count * width, 3)
    return Sprite(_png_uri(strip), count, width, height)


def mask_data(history: MaskHistory) -> dict[str, object]:
    """For the page's script: the history with its counts as base64 bytes."""
    return {
        "label": history.label,
        "prompt": history.prompt,
        "branches": list(history.branches),
        "layers": list(history.layers),
        "heads": list(history.heads),
        "steps": history.steps,
        "shape": list(history.kept.shape),
        "kept": base64.b64encode(history.kept.numpy().tobytes()).decode(),
    }


def _png_uri(image: Tensor) -> str:
    """Of float [height, width, 3] in 0 to 1."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

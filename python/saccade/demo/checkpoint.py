"""Checkpoints of the demo model: loads them, and says in one line what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ..errors import InvalidArgument
from .moving_shapes import LATENT_CHANNELS, TOKEN_CHANNELS

CONFIG = "transformer/config.json"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"
TRAINING = "training.json"
MODEL_INDEX = "model_index.json"

_FIXED = {
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "text_dim": TOKEN_CHANNELS,
    "patch_size": [1, 2, 2],
}


def require_demo_checkpoint(folder: Path) -> None:
    """Raises InvalidArgument unless ``folder`` holds a complete moving-shapes model."""
    for name in (CONFIG, WEIGHTS, SCHEDULER, TRAINING):
        if not (folder / name).is_file():
            raise InvalidArgument(f"{folder} is not a complete demo model: {name} is missing")
    config = read_config(folder / CONFIG, "WanTransformer3DModel")
    read_config(folder / SCHEDULER, "FlowMatchEulerDiscreteScheduler")
    training_log(folder)
    for name, value in _FIXED.items():
        if config.get(name) != value:
            raise InvalidArgument(
                f"{folder / CONFIG} is of another model: {name} is {config.get(name)!r}, and the "
                f"moving shapes need {value!r}"
            )
    _require_weights(folder / WEIGHTS, config)


def require_wan_checkpoint(folder: Path) -> None:
    """Raises InvalidArgument unless ``folder`` has every part that its model_index.json lists."""
    index = read_config(folder / MODEL_INDEX, "WanPipeline")
    for name, part in index.items():
        is_listed = isinstance(part, list) and any(part)
        if is_listed and not (folder / name).is_dir():
            raise InvalidArgument(f"{folder} is not a complete Wan checkpoint: {name}/ is missing")


def load_transformer(folder: Path, dtype: torch.dtype) -> WanTransformer3DModel:
    """The transformer of a folder that require_demo_checkpoint accepts, on the CPU.

    Weights have ``dtype``, but for the modules that diffusers keeps in float32.
    """
    config = _read_json(folder / CONFIG)
    transformer = WanTransformer3DModel.from_config(config).eval().requires_grad_(False)
    transformer.load_state_dict(load_file(folder / WEIGHTS))
    kept = set(WanTransformer3DModel._keep_in_fp32_modules)
    for name, weight in transformer.named_parameters():
        if kept.isdisjoint(name.split(".")):
            weight.data = weight.data.to(dtype)
    return transformer


def training_log(folder: Path) -> list[dict[str, Any]]:
    """The history of a demo model: entries with "step" and "held_out_loss".

    Raises InvalidArgument if there is none.
    """
    path = folder / TRAINING
    log = _read_json(path).get("log")
    wanted = {"step", "held_out_loss"}
    if not isinstance(log, list) or not all(
        isinstance(entry, dict) and wanted <= entry.keys() for entry in log
    ):
        raise InvalidArgument(
            f'{path} is not the history of a demo model: it needs a "log" of entries with "step" '
            'and "held_out_loss"'
        )
    return log


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InvalidArgument(f"{path} is not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise InvalidArgument(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_config(path: Path, wanted: str) -> dict[str, Any]:
    """A config of diffusers; raises InvalidArgument unless it is that of the class ``wanted``."""
    config = _read_json(path)
    found = config.get("_class_name")
    if found != wanted:
        raise InvalidArgument(f"{path} is the config of {found}, expected {wanted}")
    return config


def _require_weights(path: Path, config: dict[str, Any]) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InvalidArgument(
            f"{path} ({path.stat().st_size} bytes) is truncated or no safetensors file: {error}"
        ) from None
    wanted = _shapes_of(config, path)
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise InvalidArgument(
                f"{path} does not fit {CONFIG}: {name} is {_shape(found.get(name))}, expected "
                f"{_shape(wanted.get(name))}"
            )


def _shapes_of(config: dict[str, Any], path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with torch.device("meta"):
            model = WanTransformer3DModel.from_config(config)
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise InvalidArgument(
            f"{path.with_name('config.json')} describes no model: {error}"
        ) from None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))

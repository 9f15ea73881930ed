"""LiteAttention's state in a file, so that a generation that was interrupted can go on.

    saccade.save_state(lite, "state.safetensors")     # between two steps
    saccade.load_state(lite, "state.safetensors")     # in a new process, made with the same options

Outputs of the steps that follow are the same bits as without the interruption.
"""

from __future__ import annotations

import json
import math
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import InvalidArgument, Unsupported
from .files import write_atomically
from .lite import BranchState, LiteAttention
from .tile_mask import TileGrid, TileMask

FORMAT = "saccade.lite_state"
VERSION = 1

_POSITION = ("batch", "heads", "q_len", "k_len", "block_q", "block_k", "step", "is_new")


def pack(lite: LiteAttention, prefix: str = "") -> dict[str, Tensor]:
    """The states of all branches as tensors on the CPU, by name.

    ``{branch}.mask`` holds the words of the TileMask, ``{branch}.position`` int64 the extents of
    its grid, the last step, and whether the state is new; ``{branch}.ref`` and ``{branch}.spent``
    are there if the rule has them.
    """
    tensors = {}
    for branch, state in lite.states.items():
        position = torch.tensor([*astuple(state.mask.grid), state.step, state.is_new])
        named = {"mask": state.mask.words, "ref": state.ref, "spent": state.spent}
        tensors[f"{prefix}{branch}.position"] = position
        for name, tensor in named.items():
            if tensor is not None:
                tensors[f"{prefix}{branch}.{name}"] = tensor.cpu().contiguous()
    return tensors


def unpack(lite: LiteAttention, tensors: dict[str, Tensor]) -> dict[str, BranchState]:
    """What ``pack`` made, of a LiteAttention with equal options. Raises InvalidArgument."""
    states: dict[str, BranchState] = {}
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        branch, _, what = name.rpartition(".")
        found.setdefault(branch, {})[what] = tensor
    for branch, parts in found.items():
        states[branch] = _state_of(lite, branch, parts)
    return states


def rule_of(lite: LiteAttention) -> dict[str, Any]:
    """The options that a state depends on."""
    names = ("measure", "reference", "order", "mass_budget", "reprobe_period", "block_q", "block_k")
    return {name: getattr(lite, name) for name in names}


def save(path: str | Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Writes a state file, whole or not at all."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **facts})
    write_atomically(Path(path), _safetensors().save(tensors, {FORMAT: text}))


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a state file. Raises InvalidArgument for any other file."""
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = json.loads(metadata[FORMAT])
    except OSError:
        raise
    except Exception as error:  # whatever a malformed file makes of safetensors or JSON
        raise InvalidArgument(f"{path} is no state of LiteAttention: {error}") from error
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        version = facts.get("version") if isinstance(facts, dict) else None
        raise InvalidArgument(f"{path} has version {version}, but this saccade reads {VERSION}")
    return tensors, facts


def require_rule(saved: object, lite: LiteAttention, path: str | Path) -> None:
    """Raises InvalidArgument, with each difference, if a file is of other options."""
    expected = rule_of(lite)
    if not isinstance(saved, dict):
        raise InvalidArgument(f"{path} does not say which options its state is of")
    different = [
        f"{name} {saved.get(name)!r} in the file, {value!r} here"
        for name, value in expected.items()
        if saved.get(name) != value
    ]
    if different:
        raise InvalidArgument(f"{path} is of other options: {'; '.join(different)}")


def timeline_of(
    position: object, token_order: str | tuple[int, int, int], path: str | Path
) -> tuple[list[float], list[str]]:
    """Timesteps and finished branches of a transformer with this token order, from a file."""
    here = token_order if isinstance(token_order, str) else list(token_order)
    saved = position.get("token_order") if isinstance(position, dict) else None
    if saved is not None and saved != here:
        raise InvalidArgument(f"{path} is of token_order {saved!r}, but here it is {here!r}")
    match position:
        case {"token_order": _, "timesteps": list(timesteps), "finished": list(finished)} if all(
            type(t) in (int, float) and math.isfinite(t) for t in timesteps
        ) and all(isinstance(branch, str) for branch in finished):
            return [float(t) for t in timesteps], finished
    raise InvalidArgument(f"{path} does not say how far its transformers had come")


def _state_of(lite: LiteAttention, branch: str, parts: dict[str, Tensor]) -> BranchState:
    wanted = {"mask", "position"}
    wanted |= {"ref"} if lite.reference == "lse" else set()
    wanted |= {"spent"} if lite.mass_budget is not None else set()
    if parts.keys() != wanted:
        raise InvalidArgument(
            f"the state of branch {branch!r} needs {', '.join(sorted(wanted))}, "
            f"but the file has {', '.join(sorted(parts))}"
        )
    position = parts["position"]
    if position.dtype != torch.int64 or tuple(position.shape) != (len(_POSITION),):
        raise InvalidArgument(
            f"the position of branch {branch!r} must be int64 [{len(_POSITION)}] "
            f"({', '.join(_POSITION)}), got {position.dtype} {list(position.shape)}"
        )
    *extents, step, is_new = position.tolist()
    mask = TileMask(TileGrid(*extents), parts["mask"])
    if (mask - TileMask.full(*extents)).count() > 0:
        raise InvalidArgument(f"the mask of branch {branch!r} has bits beyond its tiles")
    if step < 0 or is_new not in (0, 1):
        raise InvalidArgument(f"the position of branch {branch!r} has step {step}, is_new {is_new}")
    batch, heads, q_tiles, _ = mask.grid.shape
    _require_shape(branch, "ref", parts, (batch, heads, mask.grid.q_len))
    _require_shape(branch, "spent", parts, (batch, heads, q_tiles))
    return BranchState(mask, step, parts.get("ref"), parts.get("spent"), bool(is_new))


def _require_shape(
    branch: str, name: str, parts: dict[str, Tensor], shape: tuple[int, ...]
) -> None:
    tensor = parts.get(name)
    allowed = (torch.float32, torch.float64) if name == "ref" else (torch.float32,)
    if tensor is not None and (tuple(tensor.shape) != shape or tensor.dtype not in allowed):
        raise InvalidArgument(
            f"{name} of branch {branch!r} must be {allowed[0]} {list(shape)}, "
            f"got {tensor.dtype} {list(tensor.shape)}"
        )


def _safetensors() -> Any:
    """safetensors.torch, with safe_open beside its functions."""
    try:
        import safetensors.torch
    except ImportError:
        raise Unsupported(
            "files need the package safetensors; `pip install safetensors` installs it"
        ) from None
    return safetensors.torch

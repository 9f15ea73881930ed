"""LiteAttention's state in a file, so that a generation that was interrupted can go on.

    saccade.save_state(lite, "state.safetensors")     # between two steps
    saccade.load_state(lite, "state.safetensors")     # in a new process, made with the same options

Outputs of the steps that follow are the same bits as without the interruption.
"""

from __future__ import annotations

import json
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .branch_state import BranchState, SharedMask
from .errors import FileError, InvalidArgument
from .files import load_safetensors, write_atomically
from .lite import LiteAttention
from .tile_mask import TileGrid, TileMask

FORMAT = "saccade.lite_state"
VERSION = 1

_ALL = "*"  # in place of the name of a branch
_POSITION = ("batch", "heads", "q_len", "k_len", "block_q", "block_k", "step", "is_new")


def pack(lite: LiteAttention, prefix: str = "") -> dict[str, Tensor]:
    """The states of all branches as tensors on the CPU, by name.

    ``{branch}.mask`` holds the words of the TileMask, ``{branch}.position`` int64 the extents of
    its grid, the last step, and whether the state is new; ``{branch}.ref``, ``{branch}.spent`` and
    ``{branch}.scores`` are there if the rule has them. Where branches share a mask, ``*.mask`` is
    it, ``*.position`` its position, and, within a step, ``*.next`` what the branches called so far
    still need.
    """
    if lite.is_in_step:
        raise InvalidArgument("a state is saved between steps; finish_step ends a partial step")
    found: dict[str, dict[str, Tensor | None]] = {
        branch: {
            "position": _position(state.mask.grid, state.step, state.is_new),
            "mask": None if lite.shares_masks else state.mask.words,
            "ref": state.ref,
            "spent": state.spent,
            "scores": state.scores,
        }
        for branch, state in lite.states.items()
    }
    if (shared := lite.shared) is not None:
        is_open = shared.next is not None and shared.next is not shared.now
        found[_ALL] = {
            "position": _position(shared.now.grid, shared.step, not shared.called),
            "mask": shared.now.words,
            "next": shared.next.words if is_open else None,
        }
    return {
        f"{prefix}{branch}.{name}": tensor.cpu().contiguous()
        for branch, parts in found.items()
        for name, tensor in parts.items()
        if tensor is not None
    }


def unpack(
    lite: LiteAttention, tensors: dict[str, Tensor], path: str | Path
) -> tuple[dict[str, BranchState], SharedMask | None]:
    """What ``pack`` made, of a LiteAttention with equal options: its states and shared mask.

    Raises FileError.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        branch, _, what = name.rpartition(".")
        found.setdefault(branch, {})[what] = tensor
    try:
        shared = _shared_of(found) if lite.shares_masks and found else None
        states = {b: _state_of(lite, b, parts, shared) for b, parts in found.items()}
        if shared is not None:
            _join(states, shared)
        return states, shared
    except InvalidArgument as error:
        raise FileError(f"{path}: {error}") from None


def rule_of(lite: LiteAttention) -> dict[str, Any]:
    """The options that a state depends on."""
    names = ("measure", "reference", "order", "mass_budget", "reprobe_period", "skips_values")
    return {name: getattr(lite, name) for name in (*names, "shares_masks", "block_q", "block_k")}


def save(path: str | Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Writes a state file, whole or not at all."""
    text = json.dumps({"format": FORMAT, "version": VERSION, **facts})
    write_atomically(Path(path), load_safetensors().save(tensors, {FORMAT: text}))


def load(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of a state file. Raises FileError for any other file."""
    safetensors = load_safetensors()
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = json.loads(metadata[FORMAT])
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:  # whatever a malformed file makes of safetensors or JSON
        raise FileError(f"{path} is no state of LiteAttention: {error}") from error
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        version = facts.get("version") if isinstance(facts, dict) else None
        raise FileError(f"{path} has version {version}, but this saccade reads {VERSION}")
    return tensors, facts


def require_rule(saved: object, lite: LiteAttention, path: str | Path) -> None:
    """Raises InvalidArgument, with each difference, if a file is of other options; FileError."""
    expected = rule_of(lite)
    if not isinstance(saved, dict):
        raise FileError(f"{path} does not say which options its state is of")
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
    """Timesteps and finished branches of a transformer with this token order, from a file.

    Raises FileError, and InvalidArgument for another token order.
    """
    here = token_order if isinstance(token_order, str) else list(token_order)
    saved = position.get("token_order") if isinstance(position, dict) else None
    if saved is not None and saved != here:
        raise InvalidArgument(f"{path} is of token_order {saved!r}, but here it is {here!r}")
    match position:
        case {"token_order": _, "timesteps": list(timesteps), "finished": list(finished)} if all(
            type(t) in (int, float) and abs(t) <= sys.float_info.max for t in timesteps
        ) and all(isinstance(branch, str) for branch in finished):
            return [float(t) for t in timesteps], finished
    raise FileError(f"{path} does not say how far its transformers had come")


def _state_of(
    lite: LiteAttention, branch: str, parts: dict[str, Tensor], shared: SharedMask | None
) -> BranchState:
    wanted = {"position"}
    wanted |= {"mask"} if shared is None else set()
    wanted |= {"ref"} if lite.reference == "lse" else set()
    wanted |= {"spent"} if lite.mass_budget is not None else set()
    wanted |= {"scores"} if lite.order == "strongest" else set()
    _require_parts(branch, parts, wanted)
    grid, step, is_new = _position_of(branch, parts["position"])
    mask = _mask_of(branch, "mask", parts) if shared is None else shared.now
    if mask.grid != grid:
        raise InvalidArgument(f"branch {branch!r} has another grid than the shared mask")
    batch, heads, q_tiles, k_tiles = grid.shape
    _require_shape(branch, "ref", parts, (batch, heads, grid.q_len))
    _require_shape(branch, "spent", parts, (batch, heads, q_tiles))
    _require_shape(branch, "scores", parts, (batch, heads, q_tiles, k_tiles))
    optional = (parts.get(name) for name in ("ref", "spent", "scores"))
    return BranchState(mask, step, *optional, is_new=is_new)


def _shared_of(found: dict[str, dict[str, Tensor]]) -> SharedMask:
    """The shared mask, taken out of what was found."""
    parts = found.pop(_ALL, {})
    _require_parts(_ALL, parts, {"mask", "position", *({"next"} & parts.keys())})
    _, step, _ = _position_of(_ALL, parts["position"])
    shared = SharedMask(_mask_of(_ALL, "mask", parts), step)
    shared.next = _mask_of(_ALL, "next", parts) if "next" in parts else None
    return shared


def _join(states: dict[str, BranchState], shared: SharedMask) -> None:
    """Which branches the step under way has had follows from their steps."""
    shared.called = {
        branch for branch, state in states.items() if state.step == shared.step and not state.is_new
    }
    if shared.called and shared.next is None:
        shared.next, shared.expected = shared.now, shared.called
    for branch in shared.called:
        states[branch].mask = shared.next


def _position(grid: TileGrid, step: int, is_new: bool) -> Tensor:
    return torch.tensor([*astuple(grid), step, is_new])


def _position_of(branch: str, position: Tensor) -> tuple[TileGrid, int, bool]:
    if position.dtype != torch.int64 or tuple(position.shape) != (len(_POSITION),):
        raise InvalidArgument(
            f"the position of branch {branch!r} must be int64 [{len(_POSITION)}] "
            f"({', '.join(_POSITION)}), got {position.dtype} {list(position.shape)}"
        )
    *extents, step, is_new = position.tolist()
    if step < 0 or is_new not in (0, 1):
        raise InvalidArgument(f"the position of branch {branch!r} has step {step}, is_new {is_new}")
    return TileGrid(*extents), step, bool(is_new)


def _mask_of(branch: str, name: str, parts: dict[str, Tensor]) -> TileMask:
    grid, *_ = _position_of(branch, parts["position"])
    mask = TileMask(grid, parts[name])
    if (mask - TileMask.full(*astuple(grid))).count() > 0:
        raise InvalidArgument(f"the {name} of branch {branch!r} has bits beyond its tiles")
    return mask


def _require_parts(branch: str, parts: dict[str, Tensor], wanted: set[str]) -> None:
    if parts.keys() != wanted:
        raise InvalidArgument(
            f"the state of branch {branch!r} needs {', '.join(sorted(wanted))}, "
            f"but the file has {', '.join(sorted(parts)) or 'nothing'}"
        )


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

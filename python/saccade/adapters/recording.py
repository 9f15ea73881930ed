"""What the attention of a model is called with during one generation, in a file: a trace.

    with saccade.record(pipeline, "wan.trace", layers="*.0.attn1", steps=range(0, 50, 5)):
        pipeline(...)

docs/traces.md describes the file; `saccade replay` tries rules on it, without the model.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import tempfile
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor

from .. import _ops
from ..errors import FileError, InvalidArgument, call
from ..functional import info
from ..lite_schedule import LiteSchedule, bytes_of
from ..space_time import Box
from . import disable, enable
from .enabled import load_hooks
from .methods import DenseAttention

_DTYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}


def record(
    model: Any,
    path: str | Path,
    *,
    layers: str | Iterable[str] = "*",
    steps: Iterable[int] | None = None,
    branches: Iterable[str] | None = None,
    heads: Iterable[int] | None = None,
    dtype: Literal["f16", "bf16", "f32"] | None = None,
    token_order: str | Box = "frames",
) -> Recorder:
    """Writes q, k and v of the self-attention of a model during one generation to a file.

    The model computes dense attention with saccade until the recorder is closed, and is then as it
    was before. A context manager: the file appears, whole, at the end of the block, and not at all
    if the block raises. Elements go to the disk as they come, without a name until the end, beside
    ``path``; closing copies them, so that the disk needs room for twice the trace.

    A call takes batch * length * head_dim * (heads + 2 * key heads) elements.

    Args:
        model: as for saccade.enable; it must not be enabled.
        path: of the file, which is replaced if it is there. Its folder must be there.
        layers: paths of layers, or patterns of them as in schedules: "*.attn1", "blocks.[0-3].*".
        steps: those to record, from 0; None is all. Steps that do not come are left out.
        branches: names of the guidance branches to record; None is all.
        heads: numbers of the query heads to record, each with the key head it reads, so that
            queries and keys have equally many; None is all.
        dtype: in which to store; None is as the model computes. Elements that f16 cannot hold
            raise InvalidArgument.
        token_order: as for saccade.enable.

    Raises like saccade.enable, InvalidArgument for a pattern that matches no layer, and OSError
    for a folder that cannot be written; nothing has changed then.
    """
    hooks = load_hooks()
    paths = [
        layer
        for prefix, transformer in hooks.transformers_of(model).items()
        for layer in hooks.self_attentions(transformer, prefix)
    ]
    if dtype is not None and dtype not in _DTYPES:
        raise InvalidArgument(f"dtype must be 'f16', 'bf16', 'f32' or None, got {dtype!r}")
    path = Path(path)
    if path.is_dir():
        raise FileError(f"cannot write {path}: it is a folder")
    choice = _Choice(
        frozenset(_matched(layers, paths)),
        None if steps is None else frozenset(map(int, steps)),
        None if branches is None else frozenset(branches),
        None if heads is None else tuple(map(int, heads)),
        None if dtype is None else _DTYPES[dtype],
    )
    return Recorder(model, path, choice, token_order)


@dataclass(frozen=True)
class _Choice:
    """What to record; None is all."""

    layers: frozenset[str]
    steps: Container[int] | None
    branches: Container[str] | None
    heads: tuple[int, ...] | None
    dtype: torch.dtype | None

    def includes(self, step: int, branch: str) -> bool:
        return (self.steps is None or step in self.steps) and (
            self.branches is None or branch in self.branches
        )


@dataclass(frozen=True)
class _Call:
    """One recorded call: where its tensors begin in the unfinished file, and their shapes."""

    step: int
    branch: str
    layer: str
    sigma: float
    dtype: torch.dtype
    begin: int
    shapes: tuple[torch.Size, ...]

    def tensors(self, data: mmap.mmap) -> list[Tensor]:
        offset, tensors = self.begin, []
        for shape in self.shapes:
            flat = torch.frombuffer(data, dtype=self.dtype, count=shape.numel(), offset=offset)
            tensors.append(flat.view(shape))
            offset += flat.nbytes
        return tensors


class Recorder:
    """A recording under way, made by saccade.record. ``calls``: how many are recorded so far."""

    def __init__(
        self, model: Any, path: Path, choice: _Choice, token_order: str | Box = "frames"
    ) -> None:
        self.path = path
        self._model = model
        self._choice = choice
        self._calls: list[_Call] = []
        self._num_steps = 0
        self._videos: set[tuple[int, int, int] | None] = set()
        self._token_order = "frames"
        # Without a name, so that nothing stays behind, however the process ends.
        self._file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
        try:
            enable(model, self._attention_of, token_order=token_order)
        except BaseException:
            self._file.close()
            raise

    @property
    def calls(self) -> int:
        return len(self._calls)

    def close(self) -> None:
        """Gives the attention back and writes the file; the second time, nothing.

        Raises InvalidArgument if there was nothing to record, and OSError; then no file is written.
        """
        if self._file.closed:
            return
        try:
            self._release_model()
            if not self._calls:
                raise InvalidArgument(
                    f"no call was recorded for {self.path}: the model was not called, or not at "
                    "the steps and branches to record"
                )
            self._write()
        finally:
            self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif not self._file.closed:
            self._release_model()
            self._file.close()

    def _release_model(self) -> None:
        with contextlib.suppress(InvalidArgument):  # the user has disabled it already
            disable(self._model)

    def _attention_of(self, path: str) -> DenseAttention:
        if path not in self._choice.layers:
            return DenseAttention()
        return _RecordedAttention(path, self)

    def _add(self, call: dict[str, Any], tensors: Sequence[Tensor]) -> None:
        """A call of a chosen layer; q, k and v are [batch, length, heads, head_dim]."""
        if self._file.closed:
            return
        self._num_steps = max(self._num_steps, call["step"] + 1)
        if not self._choice.includes(call["step"], call["branch"]):
            return
        stored = [_stored(tensor, self._choice.dtype) for tensor in self._chosen_heads(*tensors)]
        self._note_tokens(tensors[0].shape[1], tensors[1].shape[1])
        begin = self._file.tell()
        for tensor in stored:
            self._file.write((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()))
        shapes = tuple(tensor.shape for tensor in stored)
        self._calls.append(_Call(**call, dtype=stored[0].dtype, begin=begin, shapes=shapes))

    def _chosen_heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        if self._choice.heads is None:
            return q, k, v
        heads, key_heads = q.shape[2], k.shape[2]
        for head in self._choice.heads:
            if not 0 <= head < heads:
                raise InvalidArgument(f"heads has {head}, but they are 0 to {heads - 1}")
        chosen = list(self._choice.heads)
        read = [head // (heads // key_heads) for head in chosen]
        return q[:, :, chosen], k[:, :, read], v[:, :, read]

    def _note_tokens(self, q_len: int, k_len: int) -> None:
        for transformer in load_hooks().transformers_of(self._model).values():
            hook = load_hooks().hook_of(transformer)
            if hook is None or hook.video is None:
                continue
            frames, height, width = hook.video
            is_whole = q_len == k_len == frames * height * width
            self._videos.add(hook.video if is_whole else None)
            order = hook.token_order
            self._token_order = order if isinstance(order, str) else "x".join(map(str, order))

    def _write(self) -> None:
        self._file.flush()
        calls = sorted(self._calls, key=lambda one: one.step)  # those of a step stay in order
        video = next(iter(self._videos)) if len(self._videos) == 1 else None
        facts = {
            "model": load_hooks().fingerprint_of(self._model, self._token_order).model,
            "saccade_version": info()["version"],
            "num_steps": self._num_steps,
            "token_order": self._token_order,
            "video": video,
            "calls": [
                {"step": c.step, "branch": c.branch, "layer": c.layer, "sigma": c.sigma}
                for c in calls
            ],
        }
        # A private mapping: torch wants memory that could be written.
        data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_COPY)
        tensors = [tensor for one in calls for tensor in one.tensors(data)]
        path = os.fsencode(self.path)
        call(_ops.write_trace, bytes_of(path), bytes_of(json.dumps(facts)), tensors)


class _RecordedAttention(DenseAttention):
    """Dense attention of one layer, which a recorder hears of."""

    def __init__(self, path: str, recorder: Recorder) -> None:
        super().__init__()
        self._path = path
        self._recorder = recorder

    def __call__(  # type: ignore[override]
        self, q: Tensor, k: Tensor, v: Tensor, *, step: int, branch: str, sigma: float
    ) -> Tensor:
        out = super().__call__(q, k, v, step=step, branch=branch)
        facts = {"step": step, "branch": branch, "layer": self._path, "sigma": sigma}
        self._recorder._add(facts, (q, k, v))
        return out

    def reset(self) -> None:
        if self.statistics:
            raise InvalidArgument(
                f"a second generation has begun, but {self._recorder.path} holds one: close the "
                "recorder after each"
            )


def _matched(layers: str | Iterable[str], paths: list[str]) -> list[str]:
    patterns = (layers,) if isinstance(layers, str) else tuple(layers)
    try:
        return LiteSchedule(dense_layers=patterns).dense_among(paths)
    except InvalidArgument as error:
        raise InvalidArgument(str(error).replace("dense_layers", "layers", 1)) from None


def _stored(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """[batch, heads, length, head_dim] in dense memory of the CPU."""
    stored = tensor.transpose(1, 2).to("cpu", dtype or tensor.dtype).contiguous()
    if stored.dtype not in _DTYPES.values():
        raise InvalidArgument(
            f"a trace holds float16, bfloat16 or float32, but the model has {stored.dtype}; give "
            "dtype='f32'"
        )
    if stored.dtype == torch.float16 and (stored.isinf().sum() != tensor.isinf().sum()):
        raise InvalidArgument("f16 ends at 65504, which an element exceeds; give dtype='bf16'")
    return stored

"""What examples/finetune_sla.py trains on: clips that are drawn, or latents from files.

Sample i of a set is always the same, whatever process asks for it and in whatever order.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from saccade import InvalidArgument
from saccade.demo.moving_shapes import Prompt, draw_clips, embed, fold

NO_PROMPT_SHARE = 0.1  # of the training samples, for classifier-free guidance
EMPTY_PROMPT = "empty_prompt.safetensors"


@dataclass(frozen=True)
class Sample:
    """``clean``: latent [channels, frames, height, width]. ``prompt``: [tokens, features].

    ``generator``: what else is random about the sample, such as its noise.
    """

    clean: Tensor
    prompt: Tensor
    generator: torch.Generator


class Samples(ABC):
    """Training samples by number, and held-out ones that are none of them."""

    seed: int
    held_out_count: int

    def training(self, number: int) -> Sample:
        return self._make(number, _generator(self.seed, number), is_held_out=False)

    def held_out(self, number: int) -> Sample:
        return self._make(number, _generator(self.seed + 1, number), is_held_out=True)

    @abstractmethod
    def _make(self, number: int, generator: torch.Generator, *, is_held_out: bool) -> Sample: ...


class DrawnClips(Samples):
    """Clips of saccade.demo.moving_shapes; no two samples are the same."""

    def __init__(self, frames: int, size: int, held_out: int, seed: int) -> None:
        self.frames, self.size = frames, size
        self.held_out_count = held_out
        self.seed = seed

    def _make(self, number: int, generator: torch.Generator, *, is_held_out: bool) -> Sample:
        prompt = Prompt.random(generator)
        clip = draw_clips([prompt], frames=self.frames, size=self.size, generator=generator)
        has_prompt = is_held_out or torch.rand((), generator=generator) >= NO_PROMPT_SHARE
        return Sample(fold(clip)[0], embed([prompt if has_prompt else None])[0], generator)


class LatentFiles(Samples):
    """A folder of safetensors files, each with one clip.

    "latents" [channels, frames, height, width], as the transformer takes them, all of one shape;
    "prompt_embeds" [tokens, features]. The last files by name are held out. "prompt_embeds" of
    empty_prompt.safetensors, if it is there, stands for a tenth of the prompts in training.
    """

    def __init__(self, folder: Path, held_out: int, seed: int) -> None:
        files = sorted(path for path in folder.glob("*.safetensors") if path.name != EMPTY_PROMPT)
        if len(files) <= held_out:
            raise InvalidArgument(
                f"{folder} has {len(files)} files of latents, but {held_out} are held out; give "
                "more files or a smaller --held-out"
            )
        self._training, self._held_out = files[:-held_out], files[-held_out:]
        self.held_out_count = held_out
        self.seed = seed
        empty = folder / EMPTY_PROMPT
        self._empty = _read(empty, "prompt_embeds", 2) if empty.exists() else None

    def _make(self, number: int, generator: torch.Generator, *, is_held_out: bool) -> Sample:
        if is_held_out:
            path = self._held_out[number]
        else:
            epoch, place = divmod(number, len(self._training))
            order = torch.randperm(len(self._training), generator=_generator(self.seed + 2, epoch))
            path = self._training[order[place]]
        prompt = _read(path, "prompt_embeds", 2)
        is_dropped = torch.rand((), generator=generator) < NO_PROMPT_SHARE
        if self._empty is not None and is_dropped and not is_held_out:
            prompt = self._empty
        return Sample(_read(path, "latents", 4), prompt, generator)


def pretraining_tokens(model: Path) -> int | None:
    """Latent tokens that the demo model was trained on; None for a model that does not say."""
    history = model / "training.json"
    if not history.exists():
        return None
    stages = json.loads(history.read_text())["stages"]
    return sum(s["steps"] * s["batch"] * s["frames"] * (s["size"] // 4) ** 2 for s in stages)


def _read(path: Path, name: str, dims: int) -> Tensor:
    tensors = load_file(path)
    if name not in tensors or tensors[name].ndim != dims:
        shapes = {key: list(tensor.shape) for key, tensor in tensors.items()}
        raise InvalidArgument(f"{path} needs {name!r} with {dims} dimensions, has {shapes}")
    return tensors[name].float()


def _generator(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(1_000_003 * seed + number)

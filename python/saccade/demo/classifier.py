"""Which kind of object a clip shows, if any: a small convolutional network."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import InvalidArgument
from ..files import write_atomically
from .moving_shapes import KINDS

LABELS = (*KINDS, "nothing")


@dataclass(frozen=True)
class Accuracy:
    """Share of held-out real clips whose label was recognised, as drawn and after degradation."""

    clean: float
    degraded: float
    clips: int


class Classifier(nn.Module):
    """Logits of LABELS, [batch, 6], of clips float32 [batch, 3, frames, height, width].

    Frames are judged one by one and averaged, so that any number of them will do. ``accuracy`` is
    known once it was measured.
    """

    accuracy: Accuracy | None = None

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(3, 16), *_block(16, 32), *_block(32, 64), *_block(64, 96)
        )
        self.head = nn.Linear(96, len(LABELS))

    def forward(self, clips: Tensor) -> Tensor:
        frames = clips.transpose(1, 2).flatten(0, 1)
        # An object fills a part of the frame, the rest says nothing: the maximum finds it.
        found = self.features(frames).amax((2, 3))
        return self.head(found).unflatten(0, (len(clips), -1)).mean(1)

    @torch.inference_mode()
    def recognise(self, clip: Tensor) -> str:
        """The kind that a clip float32 [3, frames, height, width] shows, or "nothing"."""
        return LABELS[int(self(clip[None]).argmax())]


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
        nn.GroupNorm(8, outputs),
        nn.SiLU(),
    )


def save_classifier(classifier: Classifier, path: Path) -> None:
    """Writes weights and accuracy, which must be known, as one safetensors file."""
    metadata = {"accuracy": json.dumps(asdict(classifier.accuracy))}
    write_atomically(path, save(dict(classifier.state_dict()), metadata))


def load_classifier(path: Path) -> Classifier:
    """What save_classifier wrote; raises InvalidArgument for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            accuracy = Accuracy(**json.loads((file.metadata() or {})["accuracy"]))
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        classifier = Classifier()
        classifier.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgument(
            f"{path} is not a classifier of examples/train_classifier.py: {error}"
        ) from None
    classifier.accuracy = accuracy
    return classifier.eval().requires_grad_(False)

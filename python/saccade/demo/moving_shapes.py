"""Moving shapes: the procedurally drawn video world of the demo model.

A prompt is one word for each of five attributes; a clip is what it says, with everything it leaves
open (place, size, speed, phases, tint) drawn at random:

    prompt = Prompt("ring", "blue", "striped", "left", "waves")
    clip = draw_clips([prompt], frames=16, size=64, generator=torch.Generator().manual_seed(0))

Clips are float32 [batch, 3, frames, size, size], RGB in 0 to 1. Latents, which the transformer
works on, are float32 [batch, 12, frames, size / 2, size / 2]: 2 x 2 pixels folded into channels, in
place of a variational autoencoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import InvalidArgument

VOCABULARY: dict[str, tuple[str, ...]] = {
    "kind": ("disc", "square", "triangle", "ring", "cross"),
    "colour": ("red", "yellow", "green", "cyan", "blue", "magenta"),
    "texture": ("plain", "striped", "checked"),
    "motion": ("left", "right", "up", "down"),
    "background": ("waves", "bands", "checks"),
}
KINDS = VOCABULARY["kind"]

LATENT_CHANNELS = 12
TOKEN_CHANNELS = 32  # one-hot words, the last channel for "no word"

_COLOURS = torch.tensor(
    [[1.0, 0.2, 0.15], [1.0, 0.85, 0.1], [0.15, 0.9, 0.25], [0.1, 0.85, 0.95], [0.2, 0.35, 1.0],
     [0.95, 0.25, 0.9]]
)  # fmt: skip
_DIRECTIONS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])  # x, y
_LATENT_MEAN, _LATENT_STD = 0.28, 0.16


@dataclass(frozen=True)
class Prompt:
    """One word for each attribute. Raises InvalidArgument for a word that does not exist."""

    kind: str
    colour: str
    texture: str
    motion: str
    background: str

    def __post_init__(self) -> None:
        for name, words in VOCABULARY.items():
            if getattr(self, name) not in words:
                raise InvalidArgument(
                    f"{name} {getattr(self, name)!r} is not a word of the demo model; "
                    f"choose one of {', '.join(words)}"
                )

    @classmethod
    def parse(cls, text: str) -> Prompt:
        """From its five words in order, such as "ring blue striped left waves"."""
        words = text.split()
        if len(words) != len(VOCABULARY):
            raise InvalidArgument(
                f"a prompt has {len(VOCABULARY)} words ({', '.join(VOCABULARY)}), got "
                f"{len(words)}: {text!r}"
            )
        return cls(*words)

    @classmethod
    def random(cls, generator: torch.Generator) -> Prompt:
        """Each word drawn uniformly."""
        return cls(*(words[_choice(len(words), generator)] for words in VOCABULARY.values()))

    def __str__(self) -> str:
        return " ".join(astuple(self))

    def indices(self) -> list[int]:
        """The position of each word among those of its attribute."""
        return [VOCABULARY[f.name].index(getattr(self, f.name)) for f in fields(self)]


def embed(prompts: Sequence[Prompt | None]) -> Tensor:
    """What the transformer is conditioned on: float32 [batch, 5, TOKEN_CHANNELS], one-hot words.

    None, the empty prompt of classifier-free guidance, is "no word" five times.
    """
    starts = [0]
    for words in VOCABULARY.values():
        starts.append(starts[-1] + len(words))
    tokens = [
        [TOKEN_CHANNELS - 1] * len(VOCABULARY)
        if prompt is None
        else [start + index for start, index in zip(starts, prompt.indices(), strict=False)]
        for prompt in prompts
    ]
    return functional.one_hot(torch.tensor(tokens), TOKEN_CHANNELS).float()


def fold(clips: Tensor) -> Tensor:
    """Latents of clips."""
    normal = (clips - _LATENT_MEAN) / _LATENT_STD
    return functional.pixel_unshuffle(normal.transpose(1, 2), 2).transpose(1, 2)


def unfold(latents: Tensor) -> Tensor:
    """Clips of latents, clamped to 0 to 1; the inverse of fold."""
    normal = functional.pixel_shuffle(latents.transpose(1, 2), 2).transpose(1, 2)
    return (normal * _LATENT_STD + _LATENT_MEAN).clamp(0, 1)


def draw_clips(
    prompts: Sequence[Prompt], *, frames: int, size: int, generator: torch.Generator
) -> Tensor:
    """One clip for each prompt, by the rules of this world."""
    words = torch.tensor([prompt.indices() for prompt in prompts])
    kind, colour, texture, motion, background = words.unbind(1)
    uniform = _uniform(len(prompts), generator)

    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    radius = uniform(8.0, 12.0)
    x, y = _seen_from_object(x, y, radius, _DIRECTIONS[motion], uniform, frames, size)

    shade = _object_texture(texture, x, y, phase=uniform(0, 2 * math.pi)[:, None, None, None])
    inside = (0.5 - _signed_distance(kind, x, y, radius[:, None, None, None])).clamp(0, 1)
    figure = _COLOURS[colour][:, :, None, None, None] * shade[:, None]
    ground = _background(background, uniform, size)[:, :, None]
    return torch.lerp(ground.expand_as(figure), figure, inside[:, None])


def draw_grounds(
    prompts: Sequence[Prompt], *, frames: int, size: int, generator: torch.Generator
) -> Tensor:
    """Clips of the same world whose object is missing: the prompts' backgrounds alone."""
    background = torch.tensor([prompt.indices()[-1] for prompt in prompts])
    ground = _background(background, _uniform(len(prompts), generator), size)
    return ground[:, :, None].repeat(1, 1, frames, 1, 1)


def _uniform(batch: int, generator: torch.Generator):  # noqa: ANN202
    """Draws [batch, *shape] numbers between two limits."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(batch, *shape, generator=generator)

    return uniform


def _choice(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _seen_from_object(x, y, radius, direction, uniform, frames, size):  # noqa: ANN001, ANN202
    """Pixel coordinates relative to the object's centre, [batch, frames, size, size] each.

    The object moves steadily along `direction` and never leaves the frame.
    """
    room = size - 2 * radius - 2
    travel = torch.minimum(uniform(0.5, 1.5) * (frames - 1), room)
    progress = torch.linspace(-0.5, 0.5, frames) if frames > 1 else torch.zeros(1)
    middle = size / 2 + uniform(-0.5, 0.5, 2) * (room[:, None] - travel[:, None] * direction.abs())
    centre = middle[:, None] + (travel[:, None] * direction)[:, None] * progress[:, None]
    return (x - centre[..., 0, None, None]), (y - centre[..., 1, None, None])


def _signed_distance(kind: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance of each pixel from the outline of its object, in pixels; negative inside."""
    ax, ay = x.abs(), y.abs()
    from_centre = torch.hypot(x, y)
    disc = from_centre - radius
    square = torch.maximum(ax, ay) - 0.85 * radius
    triangle = torch.maximum(y - 0.6 * radius, 0.866 * ax - 0.5 * y - 0.55 * radius)
    ring = (from_centre - 0.72 * radius).abs() - 0.28 * radius
    bar = 0.3 * radius
    cross = torch.minimum(
        torch.maximum(ax - radius, ay - bar), torch.maximum(ay - radius, ax - bar)
    )
    return _by_word(kind, (disc, square, triangle, ring, cross))


def _object_texture(texture: Tensor, x: Tensor, y: Tensor, phase: Tensor) -> Tensor:
    """Brightness inside an object, moving with it."""
    frequency = 2 * math.pi / 8
    stripes = 0.75 + 0.25 * torch.sin(frequency * (x + y) + phase)
    checks = 0.75 + 0.25 * torch.sin(frequency * x + phase) * torch.sin(frequency * y + phase)
    return _by_word(texture, (torch.ones_like(x), stripes, checks))


def _background(background: Tensor, uniform, size: int) -> Tensor:  # noqa: ANN001
    """A still ground of two muted tints, [batch, 3, size, size]."""
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    frequency = (2 * math.pi / uniform(14, 24))[:, None, None]
    px, py = uniform(0, 2 * math.pi)[:, None, None], uniform(0, 2 * math.pi)[:, None, None]
    waves = torch.sin(frequency * y + 1.5 * torch.sin(0.7 * frequency * x + px) + py)
    bands = torch.sin(frequency * (x + 0.4 * y) + px)
    checks = torch.sin(frequency * x + px) * torch.sin(frequency * y + py)
    blend = 0.5 + 0.5 * _by_word(background, (waves, bands, checks))
    dark, light = uniform(0.05, 0.25, 3), uniform(0.25, 0.5, 3)
    return torch.lerp(dark[..., None, None], light[..., None, None], blend[:, None])


def _by_word(word: Tensor, choices: tuple[Tensor, ...]) -> Tensor:
    """choices[word[b]][b] for each batch entry b."""
    return torch.stack(choices, 1)[torch.arange(len(word)), word]

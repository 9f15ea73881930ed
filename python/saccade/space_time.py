"""The order in which the tokens of a video latent are numbered: frame by frame, or box by box."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .errors import InvalidArgument
from .tile_mask import TileGrid

Box = tuple[int, int, int]
"""Extents in tokens: frames, rows, columns."""


def token_order(frames: int, height: int, width: int, box: Box) -> Tensor:
    """An order of the tokens of a latent in which runs of consecutive tokens are boxes.

    A permutation, int64 [frames * height * width] on the CPU: place i of the sequence is taken by
    token ``order[i]``, where token (t * height + h) * width + w is column w of row h of frame t.

        x_ordered = x[:, order]
        x = x_ordered[:, saccade.inverse_order(order)]

    The latent is cut into strips of ``box[0]`` frames x ``box[1]`` rows. Along a strip tokens are
    numbered column by column, and within a column frame by frame. So wherever in a strip a run of
    box[0] * box[1] * box[2] tokens begins, it covers a box of one column more than ``box`` at
    most; tiles need not begin where boxes do. Every second strip is numbered backwards and every
    second layer of strips from the bottom up, so that a run that passes into the next strip goes
    on beside where it was. Where frames or rows do not divide, the strips differ by one: 21 frames
    in boxes of 4 are layers of 3 or 4.

    A box as wide as the latent makes strips of ``box[0]`` frames x all columns, numbered row by
    row; one as large as whole frames, such as (1, height, width), is the order that diffusers has.

    Extents of ``box`` are at least 1 and may exceed the latent. Raises InvalidArgument otherwise.
    """
    extents = _require_extents(frames, height, width)
    box = require_box(box)
    along = _axis_of_strips(extents, box)
    first, second = (axis for axis in range(3) if axis != along)
    place = torch.meshgrid(*map(torch.arange, extents), indexing="ij")
    layer = _parts(place[first], extents[first], box[first])
    bands = -(-extents[second] // box[second])
    band = _parts(_turned(place[second], extents[second], layer), extents[second], box[second])
    strip = layer * bands + band
    key = strip * extents[along] + _turned(place[along], extents[along], strip)
    key = (key * extents[first] + place[first]) * extents[second] + place[second]
    return key.flatten().argsort()


def inverse_order(order: Tensor) -> Tensor:
    """The permutation that undoes ``order``, a permutation int64 [n], on its device."""
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order), device=order.device)
    return inverse


def choose_box(frames: int, height: int, width: int, block_q: int = 128, block_k: int = 64) -> Box:
    """The box for tiles of ``block_q`` queries and ``block_k`` keys.

    It minimises dt^2 + dh^2 + dw^2, summed over both block sizes: the extents that a block covers,
    whose squares are 12 times the variances of its tokens' coordinates. A strip is dt = frames /
    ceil(frames / box[0]) deep and likewise dh high on average, and a block of it is dw = b / c wide
    where c = dt * dh; unless c divides b, blocks begin anywhere in a column and touch
    1 - 1 / c more. Frames, rows and columns count alike. ``box[2]`` is the width of block_q tokens.

    A latent of fewer tokens than a block is one box. Raises InvalidArgument for illegal blocks.
    """
    _require_extents(frames, height, width)
    TileGrid(1, 1, 1, 1, block_q, block_k)  # refuses other block sizes
    largest = max(block_q, block_k)
    candidates = [
        (dt, dh)
        for dt in _extents_of_parts(frames)
        for dh in _extents_of_parts(height)
        if dt * dh <= largest <= dt * dh * width
    ]
    if not candidates:
        return frames, height, width
    dt, dh = min(
        candidates, key=lambda cut: sum(_squared_extents(*cut, b) for b in (block_q, block_k))
    )
    return math.ceil(dt), math.ceil(dh), min(width, math.ceil(block_q / (dt * dh)))


def require_box(box: object) -> Box:
    """``box`` as a tuple. Raises InvalidArgument unless it is three whole numbers from 1."""
    extents = tuple(box) if isinstance(box, (tuple, list)) else ()
    if len(extents) != 3 or not all(type(e) is int and e >= 1 for e in extents):
        raise InvalidArgument(
            f"a box is (frames, rows, columns) in tokens, each at least 1, got {box!r}"
        )
    return extents


def require_token_order(token_order: object) -> str | Box:
    """What saccade.enable accepts. Raises InvalidArgument for anything else."""
    if not isinstance(token_order, str):
        return require_box(token_order)
    if token_order not in ("frames", "space_time"):
        raise InvalidArgument(
            "token_order must be 'frames', 'space_time' or a box (frames, rows, columns), got "
            f"{token_order!r}"
        )
    return token_order


def _require_extents(frames: int, height: int, width: int) -> Box:
    for name, extent in (("frames", frames), ("height", height), ("width", width)):
        if extent < 1:
            raise InvalidArgument(f"{name} must be at least 1, got {extent}")
    return frames, height, width


def _axis_of_strips(extents: Box, box: Box) -> int:
    """The last axis that ``box`` cuts: along it boxes follow each other."""
    return max((axis for axis in range(3) if box[axis] < extents[axis]), default=0)


def _parts(place: Tensor, extent: int, most: int) -> Tensor:
    """The number of the part that each place is in: as few parts of at most ``most`` as can be.

    Their sizes differ by 1 at most.
    """
    return place * -(-extent // most) // extent


def _turned(place: Tensor, extent: int, number: Tensor) -> Tensor:
    """Places counted from the other end where ``number`` is odd."""
    return torch.where(number % 2 == 0, place, extent - 1 - place)


def _extents_of_parts(extent: int) -> Iterator[float]:
    """Mean extents of the parts of an axis, for every number of parts."""
    return (extent / parts for parts in range(1, extent + 1))


def _squared_extents(dt: float, dh: float, block: int) -> float:
    column = dt * dh
    dw = block / column + (0 if block % column == 0 else 1 - 1 / column)
    return dt**2 + dh**2 + dw**2

"""How compact the tiles of attention are in space-time, by how the tokens of a latent are numbered.

    python benchmarks/token_geometry.py

Beside the order of frames and saccade.token_order: the same boxes row by row ("raster") and along a
Z-order curve ("Morton"), those at the far borders cut off. Two numbers for a run of so many tokens:
the root mean square distance of a token from the middle of its run, and the volume of the box
around the run over its own. Means over all whole runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

import saccade

LATENTS = ((16, 16, 16), (21, 30, 52), (21, 45, 80))  # the demo's; Wan's at 480p and 720p
BLOCKS = (128, 64)
BOX = (4, 4, 8)


def strips(extents: Sequence[int], box_: Sequence[int]) -> Tensor:
    return saccade.token_order(*extents, tuple(box_))


def raster_boxes(extents: Sequence[int], box_: Sequence[int]) -> Tensor:
    """Boxes row by row from the first corner, those at the far borders cut off."""
    return _boxes(extents, box_, lambda t, h, w: (t * 10**4 + h) * 10**4 + w)


def morton_boxes(extents: Sequence[int], box_: Sequence[int]) -> Tensor:
    """The same boxes along a Z-order curve."""

    def interleaved(*numbers: Tensor) -> Tensor:
        bits = [((n >> b) & 1) << (3 * b + 2 - a) for a, n in enumerate(numbers) for b in range(10)]
        return reduce(or_, bits)

    return _boxes(extents, box_, interleaved)


def _boxes(extents: Sequence[int], box_: Sequence[int], number: Callable[..., Tensor]) -> Tensor:
    place = torch.meshgrid(*map(torch.arange, extents), indexing="ij")
    key = number(*(p // b for p, b in zip(place, box_, strict=True)))
    return key.flatten().argsort(stable=True)


def compactness(order: Tensor, extents: Sequence[int], block: int) -> tuple[float, float]:
    """Of runs of ``block`` tokens: root mean square distance from their middle, and the volume of
    the boxes around them over their own. Means over all whole runs."""
    place = torch.stack(torch.meshgrid(*map(torch.arange, extents), indexing="ij")).flatten(1)
    runs = place[:, order][:, : len(order) // block * block].unflatten(1, (-1, block)).float()
    distance = runs.var(2, correction=0).sum(0).mean().sqrt()
    volume = (runs.amax(2) - runs.amin(2) + 1).prod(0).mean() / block
    return distance.item(), volume.item()


def geometry_table() -> Table:
    table = Table("latent", "numbering", "box", *(f"{b} tokens" for b in BLOCKS), box=box.SIMPLE)
    for extents in LATENTS:
        for name, numbering, box_ in (
            ("frames", strips, (1, *extents[1:])),
            ("space_time", strips, saccade.choose_box(*extents)),
            ("token_order", strips, BOX),
            ("raster", raster_boxes, BOX),
            ("Morton", morton_boxes, BOX),
        ):
            shown = [compactness(numbering(extents, box_), extents, block) for block in BLOCKS]
            table.add_row(
                *(_shape(extents), name, _shape(box_)),
                *(f"{distance:.2f}, {volume:.2f}" for distance, volume in shown),
            )
    return table


def _shape(extents: Sequence[int]) -> str:
    return " x ".join(map(str, extents))


if __name__ == "__main__":
    Console().print(geometry_table())

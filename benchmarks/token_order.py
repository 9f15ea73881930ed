"""LiteAttention with tiles that are strips of a frame, and with tiles that are boxes in space-time.

    python benchmarks/token_order.py [--order 4x4x4 ...] [--threshold -1 ...] [--clips 2] [--out DIR]

Draws clips of the demo model dense, and with LiteAttention for every token order and threshold.
The first table compares at equal threshold; the second at equal error: how much each order skips
at the PSNR that the order of frames has, on straight lines between its own thresholds. Errors are
those of the finished clip against the dense one. Finished clips are kept in DIR; started again,
the study goes on.

    python benchmarks/token_order.py --geometry

shows instead how compact the tiles are, for the latents of Wan, beside plain numberings of boxes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

import saccade
from saccade.demo.draw import Drawn, Request, draw
from saccade.demo.load import load_model
from saccade.demo.models import Model, Shape
from saccade.demo.results_file import ResultsFile

ORDERS = ("frames", "1x8x8", "2x4x8", "2x8x4", "4x4x4", "8x4x2")
THRESHOLDS = (-3.0, -1.0, -0.25, -0.05)
LATENTS = ((16, 16, 16), (21, 30, 52), (21, 45, 80))  # the demo's; Wan's at 480p and 720p
BLOCKS = (128, 64)


@dataclass(frozen=True)
class Result:
    """Of one order and threshold: means over the clips."""

    sparsity: float
    psnr: float
    relative_l1: float


def study(
    model: Model,
    orders: Sequence[str],
    thresholds: Sequence[float],
    clips: int,
    results: ResultsFile,
) -> Iterator[tuple[str, float, Result]]:
    """Draws what ``results`` lacks; yields order by order."""
    for order in orders:
        for threshold in thresholds:
            yield (
                order,
                threshold,
                mean_of(
                    [clip_result(model, clip, order, threshold, results) for clip in range(clips)]
                ),
            )


def clip_result(
    model: Model, clip: int, order: str, threshold: float, results: ResultsFile
) -> Result:
    dense = dense_request(model, clip)
    wanted = drawn(model, dense, results).clip
    lite = Request(
        **{**vars(dense), "method": "lite", "threshold": threshold, "token_order": parsed(order)}
    )
    found = drawn(model, lite, results, wanted)
    return Result(
        found.measurement.sparsity,
        found.measurement.psnr,
        ((found.clip - wanted).abs().sum() / wanted.abs().sum()).item(),
    )


def dense_request(model: Model, clip: int) -> Request:
    """The order of tokens does not matter to it."""
    return Request(
        method="dense",
        threshold=None,
        prompt=model.defaults.prompts[clip],
        seed=clip,
        shape=Shape(),
        sampling=model.defaults.sampling,
        dense_first_steps=model.defaults.dense_first_steps,
        block_q=64,
        block_k=64,
    )


def drawn(
    model: Model, request: Request, results: ResultsFile, wanted: Tensor | None = None
) -> Drawn:
    found = results.find(request)
    if found is None:
        found = draw(model, request, dense_clip=wanted)
        results.add(request, found)
    return found


def mean_of(results: Sequence[Result]) -> Result:
    return Result(
        *(statistics.fmean(getattr(r, name) for r in results) for name in Result.__match_args__)
    )


def sparsity_at(psnr: float, curve: Sequence[Result]) -> float | None:
    """On straight lines between the results of one order; None outside of them."""
    for low, high in pairwise(sorted(curve, key=lambda r: r.psnr)):
        if low.psnr <= psnr <= high.psnr:
            share = (psnr - low.psnr) / (high.psnr - low.psnr) if high.psnr > low.psnr else 0.0
            return low.sparsity + share * (high.sparsity - low.sparsity)
    return None


def parsed(order: str) -> str | tuple[int, ...]:
    """A box such as "4x4x4" as numbers."""
    return tuple(map(int, order.split("x"))) if order[0].isdigit() else order


def raster_boxes(extents: Sequence[int], box_: Sequence[int]) -> Tensor:
    """Boxes row by row from the first corner, those at the far borders cut off."""
    return _boxes(extents, box_, lambda t, h, w: (t * 10**4 + h) * 10**4 + w)


def morton_boxes(extents: Sequence[int], box_: Sequence[int]) -> Tensor:
    """The same boxes along a Z-order curve."""

    def interleaved(*numbers: Tensor) -> Tensor:
        bits = [((n >> b) & 1) << (3 * b + 2 - a) for a, n in enumerate(numbers) for b in range(10)]
        return sum(bits)

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
        auto = saccade.choose_box(*extents)
        for name, numbering, box_ in (
            ("frames", saccade_order, (1, *extents[1:])),
            ("space_time", saccade_order, auto),
            ("strips", saccade_order, (4, 4, 8)),
            ("raster", raster_boxes, (4, 4, 8)),
            ("Morton", morton_boxes, (4, 4, 8)),
        ):
            shown = [compactness(numbering(extents, box_), extents, block) for block in BLOCKS]
            table.add_row(
                *(_shape(extents), name, _shape(box_)),
                *(f"{distance:.2f}, {volume:.2f}" for distance, volume in shown),
            )
    return table


def saccade_order(extents: Sequence[int], box_: Sequence[int]) -> Tensor:
    return saccade.token_order(*extents, tuple(box_))


def tables(found: dict[str, dict[float, Result]]) -> Iterator[Table]:
    at_threshold = Table("order", "threshold", "skipped", "PSNR", "relative L1", box=box.SIMPLE)
    for order, curve in found.items():
        for threshold, r in curve.items():
            at_threshold.add_row(
                order,
                f"{threshold:g}",
                f"{r.sparsity:.1%}",
                f"{r.psnr:.2f}",
                f"{r.relative_l1:.4f}",
            )
    yield at_threshold
    levels = [r.psnr for r in next(iter(found.values())).values()]
    at_psnr = Table("order", *(f"{level:.2f} dB" for level in levels), box=box.SIMPLE)
    for order, curve in found.items():
        shares = [sparsity_at(level, list(curve.values())) for level in levels]
        at_psnr.add_row(order, *("-" if s is None else f"{s:.1%}" for s in shares))
    yield at_psnr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--geometry", action="store_true", help="only how compact tiles are; seconds")
    add("--model", default="examples/demo_model")
    add("--out", type=Path, default=Path("build/token_order"))
    add("--order", nargs="+", default=ORDERS, help="boxes such as 4x4x4, frames or space_time")
    add("--threshold", nargs="+", type=float, default=THRESHOLDS)
    add("--clips", type=int, default=2)
    arguments = parser.parse_args()
    console = Console()
    if arguments.geometry:
        console.print(geometry_table())
        return
    model = load_model(arguments.model, torch.device("cpu"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = ResultsFile(arguments.out, model.fingerprint)
    found: dict[str, dict[float, Result]] = {}
    with console.status("drawing") as status:
        for order, threshold, result in study(
            model, arguments.order, arguments.threshold, arguments.clips, results
        ):
            found.setdefault(order, {})[threshold] = result
            status.update(f"{order} {threshold:g}: {result.sparsity:.1%} {result.psnr:.2f} dB")
    for table in tables(found):
        console.print(table)


def _shape(extents: Sequence[int]) -> str:
    return " x ".join(map(str, extents))


if __name__ == "__main__":
    main()

"""LiteAttention with tiles that are strips of a frame, and with tiles that are boxes.

    python benchmarks/token_order.py [--order 4x4x4 ...] [--threshold -1 ...] [--clip 0 1]
    python benchmarks/token_order.py --one-step [...]

The first draws clips of the demo model dense, and with LiteAttention for every token order and
threshold; errors are those of the finished clip. The second takes q, k and v of one denoising step
of a dense clip, lets LiteAttention mark tiles, and computes the same attention again without them;
errors are those of its output, means over the layers. Either prints two tables: at equal threshold,
and how much each order skips at the error that the order of frames has, on straight lines between
its own thresholds over the logarithm of the error. Finished clips are kept in --out; started
again, the study goes on. Nothing here depends on how fast the machine is.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from saccade.demo.models import Model, Sampling, Shape
from saccade.demo.results_file import ResultsFile

ORDERS = ("frames", "1x8x8", "2x4x8", "4x4x4", "8x4x2")
CLIP_THRESHOLDS = (-1.0, -0.25, -0.05)
STEP_THRESHOLDS = (-8.0, -4.0, -2.0, -1.0, -0.25, -0.05)
BLOCK = 64  # tile height and width

STEPS, STEP = 4, 2  # of a clip drawn for its q, k and v, and the one that they are taken from


@dataclass(frozen=True)
class Result:
    """Against dense attention. PSNR in dB, of clips only."""

    sparsity: float
    relative_l1: float
    psnr: float | None = None


Measure = Callable[[int, str, float], Result]
"""Of a clip, a token order and a threshold."""


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
        block_q=BLOCK,
        block_k=BLOCK,
    )


def measure_clip(
    model: Model, results: ResultsFile, clip: int, order: str, threshold: float
) -> Result:
    dense = dense_request(model, clip)
    wanted = drawn(model, dense, results).clip
    lite = replace(dense, method="lite", threshold=threshold, token_order=parsed(order))
    found = drawn(model, lite, results, wanted)
    return Result(
        found.measurement.sparsity, relative_l1(found.clip, wanted), found.measurement.psnr
    )


def drawn(
    model: Model, request: Request, results: ResultsFile, wanted: Tensor | None = None
) -> Drawn:
    found = results.find(request)
    if found is None:
        found = draw(model, request, dense_clip=wanted)
        results.add(request, found)
    return found


@dataclass(frozen=True)
class Inputs:
    """q, k, v of the self-attention of every layer, each [1, tokens, heads, head_dim]."""

    layers: list[tuple[Tensor, Tensor, Tensor]]
    latent: tuple[int, int, int]


def inputs_of(model: Model, clip: int) -> Inputs:
    """Those of step STEP of STEPS, with the prompt."""
    layers = []

    def factory(_path: str) -> Callable[..., Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor, *, step: int, branch: str) -> Tensor:
            if (step, branch) == (STEP, "cond"):
                layers.append((q.clone(), k.clone(), v.clone()))
            return saccade.attention(q, k, v, layout="bshd")

        return attend

    request = dense_request(model, clip)
    saccade.enable(model.pipeline, factory)
    try:
        sampling = Sampling(STEPS, request.sampling.guidance)
        shape = model.draw(request.prompt, clip, Shape(), sampling, lambda step: None).shape
    finally:
        saccade.disable(model.pipeline)
    return Inputs(layers, (shape[1], shape[2] // 4, shape[3] // 4))


def measure_step(inputs: dict[int, Inputs], clip: int, order: str, threshold: float) -> Result:
    box_ = parsed(order)
    latent = inputs[clip].latent
    if box_ == "space_time":
        box_ = saccade.choose_box(*latent, BLOCK, BLOCK)
    places = saccade.token_order(*latent, (1, *latent[1:]) if box_ == "frames" else box_)
    return mean_of(
        [attend_twice([x[:, places] for x in layer], threshold) for layer in inputs[clip].layers]
    )


def attend_twice(qkv: Sequence[Tensor], threshold: float) -> Result:
    """The first call is dense and marks; the second does without what was marked."""
    lite = saccade.LiteAttention(threshold=threshold, block_q=BLOCK, block_k=BLOCK, layout="bshd")
    dense, sparse = (lite(*qkv, step=step) for step in range(2))
    return Result(lite.statistics[1].sparsity, relative_l1(sparse, dense))


def relative_l1(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).abs().sum() / wanted.abs().sum()).item()


def mean_of(results: Sequence[Result]) -> Result:
    psnrs = [r.psnr for r in results if r.psnr is not None]
    return Result(
        statistics.fmean(r.sparsity for r in results),
        statistics.fmean(r.relative_l1 for r in results),
        statistics.fmean(psnrs) if psnrs else None,
    )


def sparsity_at(error: float, curve: Sequence[Result]) -> float | None:
    """None outside of the errors of ``curve``."""
    ordered = sorted(curve, key=lambda r: r.relative_l1)
    for low, high in pairwise(ordered):
        if low.relative_l1 <= error <= high.relative_l1:
            share = math.log(error / low.relative_l1) / math.log(high.relative_l1 / low.relative_l1)
            return low.sparsity + share * (high.sparsity - low.sparsity)
    return None


def parsed(order: str) -> str | tuple[int, ...]:
    """A box such as "4x4x4" as numbers."""
    return tuple(map(int, order.split("x"))) if order[0].isdigit() else order


def tables(found: dict[str, dict[float, Result]]) -> Iterator[Table]:
    columns = ("order", "threshold", "skipped", "relative L1", "PSNR")
    at_threshold = Table(*columns, box=box.SIMPLE)
    for order, curve in found.items():
        for threshold, r in curve.items():
            psnr = "-" if r.psnr is None else f"{r.psnr:.2f}"
            at_threshold.add_row(
                order, f"{threshold:g}", f"{r.sparsity:.1%}", f"{r.relative_l1:.4f}", psnr
            )
    yield at_threshold
    errors = [r.relative_l1 for r in next(iter(found.values())).values()]
    at_error = Table("skipped at L1 of", *(f"{error:.4f}" for error in errors), box=box.SIMPLE)
    for order, curve in found.items():
        shares = [sparsity_at(error, list(curve.values())) for error in errors]
        at_error.add_row(order, *("-" if s is None else f"{s:.1%}" for s in shares))
    yield at_error


def study(
    measure: Measure, orders: Sequence[str], thresholds: Sequence[float], clips: Sequence[int]
) -> dict[str, dict[float, Result]]:
    """Means over the clips, by order and threshold."""
    found = {
        (clip, order, threshold): measure(clip, order, threshold)
        for clip in clips
        for order in orders
        for threshold in thresholds
    }
    return {
        order: {t: mean_of([found[clip, order, t] for clip in clips]) for t in thresholds}
        for order in orders
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--one-step", action="store_true", help="one step of attention instead of whole clips")
    add("--model", default="examples/demo_model", help="folder of the demo model")
    add("--out", type=Path, default=Path("build/token_order"))
    add("--order", nargs="+", default=ORDERS, help="boxes such as 4x4x4, frames or space_time")
    add("--threshold", nargs="+", type=float, help="log2 units")
    add("--clip", nargs="+", type=int, default=(0, 1), help="numbers of prompts, also seeds")
    given = parser.parse_args()
    model = load_model(given.model, torch.device("cpu"))
    console = Console()
    with console.status("drawing"):
        if given.one_step:
            measure = partial(measure_step, {c: inputs_of(model, c) for c in given.clip})
        else:
            given.out.mkdir(parents=True, exist_ok=True)
            measure = partial(measure_clip, model, ResultsFile(given.out, model.fingerprint))
        thresholds = given.threshold or (STEP_THRESHOLDS if given.one_step else CLIP_THRESHOLDS)
        found = study(measure, given.order, thresholds, given.clip)
    for table in tables(found):
        console.print(table)


if __name__ == "__main__":
    with torch.inference_mode():
        main()

"""From which length on a step of LiteAttention is faster than dense attention, on this machine.

    python benchmarks/short_sequences.py

Half of the tiles are left out, at random. One head has little to save and the same fixed costs, so
that it is the hardest case. Both are called as users call them; the best of many calls counts, in
turns, so that a busy machine does both the same harm.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable

import torch
from rich import box
from rich.console import Console
from rich.table import Table

import saccade
from saccade.baselines import random_tiles

LENGTHS = (64, 128, 192, 256, 320, 384, 512, 768, 1024)


def half_sparse(heads: int, length: int, head_dim: int) -> tuple[Callable[[], object], ...]:
    """A dense call, and a step of LiteAttention that computes half of the tiles and drops none."""
    q, k, v = (torch.randn(1, heads, length, head_dim) for _ in range(3))
    lite = saccade.LiteAttention(threshold=-math.inf)
    for step in range(2):
        lite(q, k, v, step=step)
    grid = lite.mask().grid
    lite.states["cond"].mask = random_tiles(grid, 0.5)
    step = iter(range(2, 10**9))
    return (
        lambda: saccade.attention(q, k, v),
        lambda: lite(q, k, v, step=next(step)),
    )


def best_seconds(calls: tuple[Callable[[], object], ...], seconds: float) -> list[float]:
    best = [math.inf] * len(calls)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for i, call in enumerate(calls):
            begin = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - begin)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, nargs="+", default=[1, 12])
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each pair of timings")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("heads", "length", "dense ms", "half of the tiles ms", "speed-up", box=box.SIMPLE)
    with torch.no_grad():
        for heads in arguments.heads:
            for length in LENGTHS:
                calls = half_sparse(heads, length, arguments.head_dim)
                dense, sparse = best_seconds(calls, arguments.seconds)
                cells = f"{1e3 * dense:.3f}", f"{1e3 * sparse:.3f}", f"{dense / sparse:.2f}x"
                table.add_row(str(heads), str(length), *cells)
    Console().print(table)


if __name__ == "__main__":
    main()

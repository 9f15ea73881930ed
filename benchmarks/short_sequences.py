"""From which length on a step of LiteAttention is faster than dense attention, on this machine.

    python benchmarks/short_sequences.py

Three calls as users make them: saccade.attention; a dense step of LiteAttention, which is what
min_length asks for; and a step that leaves out half of the tiles, at random. One head has the least
to save for the same fixed costs. The best of many calls counts, made in turns.
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


def calls_of(heads: int, length: int, head_dim: int) -> tuple[Callable[[], object], ...]:
    """Dense attention, a dense step, and one of half of the tiles; the steps drop none."""
    q, k, v = (torch.randn(1, heads, length, head_dim) for _ in range(3))
    dense = saccade.LiteAttention(saccade.LiteSchedule(min_length=length + 1))
    half = saccade.LiteAttention(threshold=-math.inf)
    for lite in (dense, half):
        lite(q, k, v, step=0)
    half.states["cond"].mask = random_tiles(half.mask().grid, 0.5)
    return (
        lambda: saccade.attention(q, k, v),
        lambda: dense(q, k, v, step=1),
        lambda: half(q, k, v, step=1),
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
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("heads", "length", "attention ms", "dense step", "half", "x", box=box.SIMPLE)
    with torch.no_grad():
        for heads in arguments.heads:
            for length in LENGTHS:
                calls = calls_of(heads, length, arguments.head_dim)
                best = best_seconds(calls, arguments.seconds)
                cells = [f"{1e3 * seconds:.3f}" for seconds in best]
                table.add_row(str(heads), str(length), *cells, f"{best[0] / best[2]:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()

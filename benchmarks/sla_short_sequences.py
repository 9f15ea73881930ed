"""From which length on SLA is faster than dense attention, on this machine.

    python benchmarks/sla_short_sequences.py

Times of saccade.attention and of SparseLinearAttention, forward, and forward with backward:
routing, both branches and the projection count. The best of many calls, made in turns.
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

LENGTHS = (64, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)


def calls_of(
    heads: int, length: int, head_dim: int, linear: str
) -> tuple[Callable[[], object], ...]:
    """Dense and sparse, forward; dense and sparse, with backward."""
    q, k, v, dout = (torch.randn(1, heads, length, head_dim) for _ in range(4))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    sla = saccade.SparseLinearAttention(head_dim, linear=linear)

    def forward(attend: Callable[..., torch.Tensor]) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return attend(q, k, v)

        return run

    def backward(attend: Callable[..., torch.Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(attend(*leaves), leaves, dout)

    both = saccade.attention, sla
    return (*map(forward, both), *map(backward, both))


def best_seconds(calls: tuple[Callable[[], object], ...], seconds: float) -> list[float]:
    best = [math.inf] * len(calls)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or math.inf in best:
        for i, call in enumerate(calls):
            begin = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - begin)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, nargs="+", default=[1, 12])
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--linear", choices=("marginal", "all"), default="marginal")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table(
        *("heads", "length", "dense ms", "SLA ms", "x", "with backward", "SLA", "x"),
        box=box.SIMPLE,
    )
    for heads in arguments.heads:
        for length in LENGTHS:
            calls = calls_of(heads, length, arguments.head_dim, arguments.linear)
            best = best_seconds(calls, arguments.seconds)
            cells = [f"{1e3 * seconds:.3f}" for seconds in best]
            cells.insert(2, f"{best[0] / best[1]:.2f}")
            table.add_row(str(heads), str(length), *cells, f"{best[2] / best[3]:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

"""saccade against torch's own attention on this CPU, side by side in one process.

    python benchmarks/cpu_vs_torch.py [--threads 2] [--rounds 9] [--dtypes f32] [--json FILE]

Three comparisons, each a ratio of two timings taken one right after the other:
  dense   saccade.attention beside scaled_dot_product_attention (below 1: saccade is faster)
  sparse  saccade at sparsity s beside (1 - s) times saccade's own dense time (1: ideal)
  flex    saccade beside compiled FlexAttention, both with the same mask of 128 x 128 tiles; f32,
          forward only, which is what torch offers on a CPU (below 1: saccade is faster)
Machines drift and other processes come and go; what happens to both sides of a pair does not move
their ratio. A row gives the median of each side and the median of the ratio with its quartiles.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

import saccade

BATCH, HEADS, LENGTH = 1, 4, 4096
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
SPARSITIES = (0.0, 0.5, 0.9)


@dataclass(frozen=True)
class Row:
    """One pair of timings, in milliseconds. `ratio` is saccade's time over what it is held to."""

    what: str
    dtype: str
    head_dim: int
    direction: str
    held_to_ms: float
    saccade_ms: float
    ratio: float
    ratio_quartiles: tuple[float, float]


@dataclass(frozen=True)
class Pair:
    """Two computations of the same thing, and the factor that makes their times comparable."""

    what: str
    dtype: str
    head_dim: int
    direction: str
    held_to: Callable[[], object]
    saccade: Callable[[], object]
    expected_share: float = 1.0

    def measure(self, rounds: int) -> Row:
        self.held_to(), self.saccade()
        calls = round(1 / self.expected_share)  # both sides of a pair do about the same work
        held_to_ms, saccade_ms = [], []
        for _ in range(rounds):
            held_to_ms.append(milliseconds(self.held_to) * self.expected_share)
            saccade_ms.append(milliseconds(self.saccade, calls))
        ratios = [ours / theirs for ours, theirs in zip(saccade_ms, held_to_ms, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        return Row(
            *(self.what, self.dtype, self.head_dim, self.direction),
            *(statistics.median(x) for x in (held_to_ms, saccade_ms, ratios)),
            (low, high),
        )


def milliseconds(function: Callable[[], object], calls: int = 1) -> float:
    """Of one call, on average."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) * 1e3 / calls


def forward_and_backward(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: list[Tensor], dout: Tensor
) -> dict[str, Callable[[], object]]:
    """Both directions. Backward is timed alone, over the graph of one forward pass."""
    with_gradients = [x.detach().requires_grad_() for x in inputs]
    out = attention(*with_gradients)
    return {
        "forward": lambda: attention(*inputs),
        "backward": lambda: torch.autograd.grad(out, with_gradients, dout, retain_graph=True),
    }


def pairs(dtypes: list[str]) -> Iterator[Pair]:
    """Every comparison, in the order of the table."""
    sdpa = torch.nn.functional.scaled_dot_product_attention
    for head_dim in (64, 128):
        for name in dtypes:
            dtype = DTYPES[name]
            generator = torch.Generator().manual_seed(0)
            shape = (BATCH, HEADS, LENGTH, head_dim)
            *inputs, dout = (torch.randn(shape, generator=generator).to(dtype) for _ in range(4))
            theirs = forward_and_backward(sdpa, inputs, dout)
            dense = forward_and_backward(saccade.attention, inputs, dout)
            for direction in theirs:
                yield Pair("dense", name, head_dim, direction, theirs[direction], dense[direction])
            for sparsity in SPARSITIES:
                tiles = random_tiles(sparsity, generator)
                sparse = forward_and_backward(partial(saccade.attention, tiles=tiles), inputs, dout)
                for direction in dense:
                    yield Pair(
                        *(f"{sparsity:.0%} sparse", name, head_dim, direction),
                        *(dense[direction], sparse[direction], 1 - tiles.sparsity()),
                    )
            if name == "f32":
                yield from flex_pairs(head_dim, inputs, generator)


def flex_pairs(head_dim: int, inputs: list[Tensor], generator: torch.Generator) -> Iterator[Pair]:
    flex = torch.compile(flex_attention, dynamic=False)
    for sparsity in SPARSITIES:
        tiles = random_tiles(sparsity, generator, block_k=128)
        ours = partial(saccade.attention, *inputs, tiles=tiles)
        theirs = partial(flex, *inputs, block_mask=as_block_mask(tiles))
        torch.testing.assert_close(theirs(), ours(), rtol=1e-4, atol=1e-4)
        yield Pair(f"flex, {sparsity:.0%} sparse", "f32", head_dim, "forward", theirs, ours)


def as_block_mask(tiles: saccade.TileMask) -> BlockMask:
    """Whole blocks only: no logit within a block is masked."""
    active = tiles.to_dense()
    counts = active.sum(-1, dtype=torch.int32)
    indices = active.int().argsort(dim=-1, descending=True, stable=True).int()
    return BlockMask.from_kv_blocks(
        torch.zeros_like(counts),
        torch.zeros_like(indices),
        counts,
        indices,
        BLOCK_SIZE=(tiles.grid.block_q, tiles.grid.block_k),
        seq_lengths=(tiles.grid.q_len, tiles.grid.k_len),
    )


def random_tiles(
    sparsity: float, generator: torch.Generator, block_k: int = 64
) -> saccade.TileMask:
    grid = saccade.TileGrid(BATCH, HEADS, LENGTH, LENGTH, block_k=block_k)
    active = torch.rand(grid.shape, generator=generator) >= sparsity
    return saccade.TileMask.from_dense(active, LENGTH, LENGTH, block_k=block_k)


def print_table(rows: list[Row], console: Console) -> None:
    title = f"B={BATCH} H={HEADS} L={LENGTH}, {torch.get_num_threads()} threads, times in ms"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for column in ("comparison", "dtype", "D", "pass"):
        table.add_column(column, no_wrap=True)
    for column in ("held to", "saccade", "ratio", "quartiles"):
        table.add_column(column, no_wrap=True, justify="right")
    for row in rows:
        low, high = row.ratio_quartiles
        table.add_row(
            *(row.what, row.dtype, str(row.head_dim), row.direction),
            *(f"{row.held_to_ms:.1f}", f"{row.saccade_ms:.1f}"),
            *(f"{row.ratio:.3f}", f"{low:.2f}-{high:.2f}"),
        )
    console.print(table)
    console.print(
        "held to: torch for dense and flex rows, (1 - sparsity) x dense saccade for sparse rows"
    )


def cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, help="threads of torch (default: torch's choice)")
    parser.add_argument("--rounds", type=int, default=9, help="timings of each side of a pair")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--json", type=Path, help="also write the rows and the machine here")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds must be at least 2, for quartiles; got {arguments.rounds}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    console = Console()
    comparisons = list(pairs(arguments.dtypes))
    with Progress(console=console, transient=True) as progress:
        rows = [pair.measure(arguments.rounds) for pair in progress.track(comparisons)]
    print_table(rows, console)
    if arguments.json:
        record = {
            "command": ["python", *sys.argv],
            "cpu": cpu_model(),
            "threads": torch.get_num_threads(),
            "saccade": saccade.info(),
            "shape": {"batch": BATCH, "heads": HEADS, "length": LENGTH},
            "rows": [asdict(row) for row in rows],
        }
        unfinished = arguments.json.with_name(arguments.json.name + ".unfinished")
        unfinished.write_text(json.dumps(record, indent=2) + "\n")
        unfinished.replace(arguments.json)


if __name__ == "__main__":
    main()

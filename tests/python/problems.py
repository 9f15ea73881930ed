"""Attention problems: made by hand or at random, and run through saccade."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

import saccade
from dense_reference import Attention, Expected, dense_attention
from saccade import TileMask

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("bhsd", "bshd")


@dataclass
class Problem:
    """Inputs of one call and the gradients of its results, heads first whatever the layout."""

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    dlse: Tensor | None = None
    tiles: TileMask | None = None
    scale: float | None = None
    layout: str = "bhsd"
    q_lens: Tensor | None = None
    k_lens: Tensor | None = None

    def run(self) -> Attention:
        """Forward and backward by saccade."""
        inputs = [x.detach().requires_grad_() for x in (self.q, self.k, self.v)]
        out, lse = saccade.attention(
            *(self._in_layout(x) for x in inputs),
            tiles=self.tiles,
            scale=self.scale,
            layout=self.layout,
            q_lens=self.q_lens,
            k_lens=self.k_lens,
            return_lse=True,
        )
        out = self._in_layout(out)
        results, gradients = [out], [self.dout]
        if self.dlse is not None:
            results, gradients = [out, lse], [self.dout, self.dlse]
        dq, dk, dv = torch.autograd.grad(results, inputs, gradients)
        return Attention(out.detach(), lse.detach(), dq, dk, dv)

    def expected(self) -> Expected:
        return dense_attention(
            *(self.q, self.k, self.v, self.dout, self.dlse),
            tiles=self.tiles,
            scale=self.scale,
            q_lens=self.q_lens,
            k_lens=self.k_lens,
        )

    def _in_layout(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2) if self.layout == "bshd" else x

    def __str__(self) -> str:
        return (
            f"q {tuple(self.q.shape)} strides {self.q.stride()}, k {tuple(self.k.shape)}, "
            f"{self.q.dtype}, {self.layout}, scale {self.scale}, tiles {self.tiles}, "
            f"q_lens {self.q_lens}, k_lens {self.k_lens}, dlse {self.dlse is not None}"
        )


def make_problem(
    *,
    batch: int = 1,
    q_heads: int = 2,
    k_heads: int = 2,
    q_len: int = 200,
    k_len: int = 150,
    head_dim: int = 64,
    dtype: torch.dtype = torch.float32,
    layout: str = "bhsd",
    seed: int = 0,
) -> Problem:
    """Standard normal tensors: logits of a few units at the default scale."""
    generator = torch.Generator().manual_seed(seed)

    def normal(heads: int, length: int) -> Tensor:
        shape = (batch, heads, length, head_dim)
        if layout == "bshd":
            shape = (batch, length, heads, head_dim)
        x = torch.randn(shape, generator=generator).to(dtype)
        return x.transpose(1, 2) if layout == "bshd" else x

    return Problem(
        q=normal(q_heads, q_len),
        k=normal(k_heads, k_len),
        v=normal(k_heads, k_len),
        dout=normal(q_heads, q_len),
        dlse=torch.randn(batch, q_heads, q_len, generator=generator),
        layout=layout,
    )


def random_tiles(
    problem: Problem, density: float, block_q: int = 128, block_k: int = 64, seed: int = 0
) -> TileMask:
    batch, heads, q_len, _ = problem.q.shape
    grid = saccade.TileGrid(batch, heads, q_len, problem.k.shape[2], block_q, block_k)
    active = torch.rand(grid.shape, generator=torch.Generator().manual_seed(seed)) < density
    return TileMask.from_dense(active, q_len, problem.k.shape[2], block_q, block_k)


def poison_padding(problem: Problem) -> None:
    """Writes NaN wherever q_lens and k_lens say that nobody looks."""
    for lens, tensors in (
        (problem.q_lens, (problem.q, problem.dout)),
        (problem.k_lens, (problem.k, problem.v)),
    ):
        for b, length in enumerate(lens.tolist() if lens is not None else ()):
            for x in tensors:
                x[b, :, length:] = torch.nan
    if problem.q_lens is not None and problem.dlse is not None:
        for b, length in enumerate(problem.q_lens.tolist()):
            problem.dlse[b, :, length:] = torch.nan


def random_problem(seed: int) -> Problem:
    """Any shape, dtype, layout, mask and padding that the cpu backend takes, with max|S| <= 20."""
    rng = random.Random(seed)
    k_heads = rng.choice((1, 1, 2))
    problem = make_problem(
        batch=rng.choice((1, 1, 2)),
        q_heads=k_heads * rng.choice((1, 1, 2, 3)),
        k_heads=k_heads,
        q_len=rng.randint(1, rng.choice((100, 250, 400))),
        k_len=rng.randint(1, rng.choice((100, 250, 400))),
        head_dim=16 * rng.randint(1, 16),
        dtype=rng.choice(DTYPES),
        layout=rng.choice(LAYOUTS),
        seed=seed,
    )
    if rng.random() < 0.6:
        density = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        blocks = rng.choice((64, 128)), rng.choice((64, 128))
        problem.tiles = random_tiles(problem, density, *blocks, seed)
    if rng.random() < 0.5:
        problem.dlse = None
    largest = (problem.q.float() @ _repeat_heads(problem.k, problem.q).float().mT).abs().max()
    problem.scale = rng.choice((-1, 1, 1)) * rng.uniform(0.1, 20) / largest.item()
    for name, x in (("q_lens", problem.q), ("k_lens", problem.k)):
        if rng.random() < 0.3:
            lens = [rng.randint(0, x.shape[2]) for _ in range(x.shape[0])]
            setattr(problem, name, torch.tensor(lens, dtype=torch.int32))
    poison_padding(problem)
    return problem


def _repeat_heads(k: Tensor, q: Tensor) -> Tensor:
    return k.repeat_interleave(q.shape[1] // k.shape[1], 1)

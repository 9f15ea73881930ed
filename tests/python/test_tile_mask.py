"""TileMask: bits, set algebra, errors."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saccade import InvalidArgument, TileGrid, TileMask

extents = st.integers(1, 3)
blocks = st.sampled_from((64, 128))
q_lengths = st.integers(1, 400)
# Up to three words a row, mostly around the word boundaries of 64 and 128 tiles.
k_lengths = q_lengths | st.integers(64 * 63, 64 * 66) | st.integers(128 * 127, 128 * 129)


@st.composite
def dense_masks(draw, count=1):
    """A grid and `count` random dense masks of it."""
    grid = TileGrid(*(draw(x) for x in (extents, extents, q_lengths, k_lengths, blocks, blocks)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from((0.0, 0.1, 0.5, 1.0)))
    return grid, *(torch.rand(grid.shape, generator=generator) < density for _ in range(count))


def pack(grid, active):
    return TileMask.from_dense(active, grid.q_len, grid.k_len, grid.block_q, grid.block_k)


@given(dense_masks())
def test_dense_and_back(case):
    grid, active = case
    mask = pack(grid, active)
    assert mask.grid == grid
    assert mask.words.shape == grid.words_shape
    assert torch.equal(mask.to_dense(), active)
    assert mask.count() == active.sum()
    assert mask.sparsity() == pytest.approx(1 - active.float().mean().item(), abs=1e-6)


@given(dense_masks())
def test_each_tile_is_its_bit(case):
    grid, active = case
    words = pack(grid, active).words.tolist()
    for b, h, i, j in active.nonzero().tolist():
        assert (words[b][h][i][j // 64] >> (j % 64)) & 1
    bits = sum((word % 2**64).bit_count() for b in words for h in b for row in h for word in row)
    assert bits == active.sum(), "padding bits must be zero"


@given(dense_masks(count=2))
def test_set_algebra(case):
    grid, a, b = case
    x, y = pack(grid, a), pack(grid, b)
    for mask, active in ((x & y, a & b), (x | y, a | b), (x - y, a & ~b), (~x, ~a)):
        assert torch.equal(mask.to_dense(), active)
        assert mask.count() == active.sum(), "padding bits must be zero"


@given(dense_masks())
def test_full_is_the_complement_of_nothing(case):
    grid, active = case
    arguments = (grid.batch, grid.heads, grid.q_len, grid.k_len, grid.block_q, grid.block_k)
    full = TileMask.full(*arguments)
    assert full.to_dense().all()
    assert full.sparsity() == 0
    assert torch.equal((full - pack(grid, active)).words, (~pack(grid, active)).words)


def test_default_tiles_are_128_x_64():
    assert TileMask.full(1, 1, 1000, 1000).to_dense().shape == (1, 1, 8, 16)
    assert TileMask.full(1, 1, 1000, 1000).grid == TileGrid(1, 1, 1000, 1000, 128, 64)


def test_full_owns_every_word():
    """Not one row of words shared by all, which set operations in place would corrupt."""
    mask = TileMask.full(2, 3, 300, 300)
    mask.words[0, 0, 0] = 0
    assert mask.to_dense().sum() == mask.grid.batch * mask.grid.heads * 3 * 5 - 5


def test_masks_live_on_any_device():
    """The operations are torch's, so they need no kernel of ours: meta stands for any device."""
    mask = TileMask.full(1, 2, 300, 300, device="meta")
    for result in (mask & mask, mask | mask, mask - mask, ~mask, mask.to("meta")):
        assert result.words.device.type == "meta"
    assert mask.to_dense().device.type == "meta"


def test_repr_names_the_grid():
    assert "q_len 300" in repr(TileMask.full(1, 2, 300, 200))


def test_other_grid():
    with pytest.raises(InvalidArgument, match=r"q_len 300.*q_len 301"):
        TileMask.full(1, 1, 300, 300) & TileMask.full(1, 1, 301, 300)


@pytest.mark.parametrize("operation", ["__and__", "__or__", "__sub__"])
def test_no_operation_mixes_block_sizes(operation):
    a, b = TileMask.full(1, 1, 64, 64), TileMask.full(1, 1, 64, 64, block_k=128)
    with pytest.raises(InvalidArgument, match=r"128 x 64 tiles.*128 x 128 tiles"):
        getattr(a, operation)(b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TileMask.full(0, 1, 1, 1), "batch must be at least 1, got 0"),
        (lambda: TileMask.full(1, 1, 1, -3), "k_len must be at least 1, got -3"),
        (lambda: TileMask.full(1, 1, 1, 1, 32), "block_q must be 64 or 128, got 32"),
        (lambda: TileMask.full(1, 1, 1, 1, 64, 0), "block_k must be 64 or 128, got 0"),
        (lambda: TileMask.from_dense(torch.ones(1, 1, 1, 1), 1, 1), "bool tensor.*float32"),
        (lambda: TileMask.from_dense(torch.ones(2).bool(), 1, 1), r"bool tensor.*\(2,\)"),
        (
            lambda: TileMask.from_dense(torch.ones(1, 1, 2, 2).bool(), 300, 100),
            r"shape \(1, 1, 3, 2\) for .*q_len 300.* got \(1, 1, 2, 2\)",
        ),
        (
            lambda: TileMask(TileGrid(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)),
            "words must have dtype torch.int64, got torch.float32",
        ),
        (
            lambda: TileMask(TileGrid(1, 1, 1, 1), torch.zeros(1, 1, 1, 2).long()),
            r"shape \(1, 1, 1, 1\) for .* got \(1, 1, 1, 2\)",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(InvalidArgument, match=message):
        make()


def test_tiles_of_tokens_are_rounded_outward():
    grid = TileGrid(2, 3, 300, 700, 128, 64)
    mask = TileMask.of_tokens(grid, queries=[(127, 129), (5, 5)], keys=[(64, 128), (699, 700)])
    expected = torch.zeros(grid.shape, dtype=torch.bool)
    expected[:, :, :2] = True
    expected[..., [1, 10]] = True
    assert torch.equal(mask.to_dense(), expected)
    assert TileMask.of_tokens(grid).count() == 0


@pytest.mark.parametrize("bad", [(-1, 3), (5, 4), (0, 301)])
def test_tokens_beyond_the_grid_are_refused(bad):
    grid = TileGrid(1, 1, 300, 300, 64, 64)
    with pytest.raises(InvalidArgument, match=r"queries .* 0 <= begin <= end <= 300"):
        TileMask.of_tokens(grid, queries=[bad])

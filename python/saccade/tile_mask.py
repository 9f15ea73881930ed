"""Which tiles of the logits are computed: one bit per tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InvalidArgument

_WORD_BITS = 64


@dataclass(frozen=True)
class TileGrid:
    """How one attention problem is cut into tiles of block_q x block_k logits.

    ``heads`` are query heads. The last tile of a row or column may be partial. Raises
    InvalidArgument unless every extent is at least 1 and both block sizes are 64 or 128.
    """

    batch: int
    heads: int
    q_len: int
    k_len: int
    block_q: int = 128
    block_k: int = 64

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "q_len", "k_len"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("block_q", "block_k"):
            if getattr(self, name) not in (64, 128):
                raise InvalidArgument(f"{name} must be 64 or 128, got {getattr(self, name)}")

    @property
    def q_tiles(self) -> int:
        return -(-self.q_len // self.block_q)

    @property
    def k_tiles(self) -> int:
        return -(-self.k_len // self.block_k)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the mask as one element per tile."""
        return (self.batch, self.heads, self.q_tiles, self.k_tiles)

    @property
    def words_shape(self) -> tuple[int, int, int, int]:
        """Shape of the mask as 64-bit words: each row of tiles is padded to whole words."""
        return (self.batch, self.heads, self.q_tiles, -(-self.k_tiles // _WORD_BITS))

    def __str__(self) -> str:
        return (
            f"batch {self.batch}, heads {self.heads}, q_len {self.q_len}, k_len {self.k_len}, "
            f"{self.block_q} x {self.block_k} tiles"
        )


class TileMask:
    """One bit per tile of a grid, set = active (to be computed).

    This is the complement of the Skip-Mask of LiteAttention (arXiv 2511.11062, Algorithm 2).

    ``words`` is an int64 tensor [batch, heads, q_tiles, ceil(k_tiles / 64)] on any device: bit
    t % 64 of word t // 64, counted from the least significant, is key tile t of the row. Padding
    bits are zero and stay zero through all set operations. The constructor takes ``words`` as they
    are, without a copy; it raises InvalidArgument if their shape or dtype is not that of ``grid``.

    ``a & b``, ``a | b``, ``a - b`` and ``~a`` are the set operations; they need equal grids and
    raise InvalidArgument otherwise. Masks carry no gradient.
    """

    def __init__(self, grid: TileGrid, words: Tensor) -> None:
        if words.dtype != torch.int64:
            raise InvalidArgument(f"words must have dtype torch.int64, got {words.dtype}")
        if tuple(words.shape) != grid.words_shape:
            raise InvalidArgument(
                f"words must have shape {grid.words_shape} for {grid}, got {tuple(words.shape)}"
            )
        self.grid = grid
        self.words = words

    @classmethod
    def full(
        cls,
        batch: int,
        heads: int,
        q_len: int,
        k_len: int,
        block_q: int = 128,
        block_k: int = 64,
        *,
        device: torch.device | str | None = None,
    ) -> TileMask:
        """Every tile is active. ``heads`` are query heads."""
        grid = TileGrid(batch, heads, q_len, k_len, block_q, block_k)
        return cls(grid, _valid_bits(grid, device).expand(grid.words_shape).contiguous())

    @classmethod
    def from_dense(
        cls, active: Tensor, q_len: int, k_len: int, block_q: int = 128, block_k: int = 64
    ) -> TileMask:
        """``active`` is bool [batch, heads, ceil(q_len / block_q), ceil(k_len / block_k)]."""
        if active.dtype != torch.bool or active.dim() != 4:
            raise InvalidArgument(
                "active must be a bool tensor [batch, heads, q_tiles, k_tiles], "
                f"got {active.dtype} {tuple(active.shape)}"
            )
        grid = TileGrid(active.shape[0], active.shape[1], q_len, k_len, block_q, block_k)
        if tuple(active.shape) != grid.shape:
            raise InvalidArgument(
                f"active must have shape {grid.shape} for {grid}, got {tuple(active.shape)}"
            )
        padding = grid.words_shape[-1] * _WORD_BITS - grid.k_tiles
        bits = torch.nn.functional.pad(active, (0, padding)).unflatten(-1, (-1, _WORD_BITS))
        # The bits of a word are disjoint, so their sum, which wraps at bit 63, is their union.
        return cls(grid, (bits.long() << _bit_numbers(active.device)).sum(-1))

    @classmethod
    def of_tokens(
        cls,
        grid: TileGrid,
        queries: Sequence[tuple[int, int]] = (),
        keys: Sequence[tuple[int, int]] = (),
        *,
        device: torch.device | str | None = None,
    ) -> TileMask:
        """The tiles that hold a token of half-open (begin, end) ranges of queries or of keys.

        Raises InvalidArgument for a range that is not within the lengths of ``grid``.
        """
        active = torch.zeros(grid.shape, dtype=torch.bool, device=device)
        for begin, end in _within("queries", queries, grid.q_len):
            active[:, :, begin // grid.block_q : -(-end // grid.block_q)] = True
        for begin, end in _within("keys", keys, grid.k_len):
            active[..., begin // grid.block_k : -(-end // grid.block_k)] = True
        return cls.from_dense(active, grid.q_len, grid.k_len, grid.block_q, grid.block_k)

    def to_dense(self) -> Tensor:
        """Bool [batch, heads, q_tiles, k_tiles], true = active."""
        bits = (self.words[..., None] >> _bit_numbers(self.words.device)) & 1
        return bits.flatten(-2)[..., : self.grid.k_tiles].bool()

    def to(self, device: torch.device | str) -> TileMask:
        """The same mask in the memory of ``device``."""
        return TileMask(self.grid, self.words.to(device))

    def count(self) -> int:
        """Number of active tiles. Waits for the device."""
        return int(_population(self.words).sum())

    def count_by_head(self) -> Tensor:
        """Number of active tiles of each head, int64 [batch, heads]."""
        return _population(self.words).sum((2, 3))

    def sparsity(self) -> float:
        """Inactive share of all tiles, 0 to 1. Waits for the device."""
        batch, heads, q_tiles, k_tiles = self.grid.shape
        return 1.0 - self.count() / (batch * heads * q_tiles * k_tiles)

    def __and__(self, other: TileMask) -> TileMask:
        self._require_grid_of(other)
        return TileMask(self.grid, self.words & other.words)

    def __or__(self, other: TileMask) -> TileMask:
        self._require_grid_of(other)
        return TileMask(self.grid, self.words | other.words)

    def __sub__(self, other: TileMask) -> TileMask:
        self._require_grid_of(other)
        return TileMask(self.grid, self.words & ~other.words)

    def __invert__(self) -> TileMask:
        return TileMask(self.grid, ~self.words & _valid_bits(self.grid, self.words.device))

    def __repr__(self) -> str:
        return f"TileMask({self.grid}, on {self.words.device})"

    def _require_grid_of(self, other: TileMask) -> None:
        if self.grid != other.grid:
            raise InvalidArgument(
                f"masks must share one grid, got ({self.grid}) and ({other.grid})"
            )


def _within(name: str, ranges: Sequence[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """The ranges that hold a token."""
    for begin, end in ranges:
        if not 0 <= begin <= end <= length:
            raise InvalidArgument(
                f"{name} holds the range [{begin}, {end}), but needs 0 <= begin <= end <= {length}"
            )
    return [(begin, end) for begin, end in ranges if begin < end]


def _bit_numbers(device: torch.device) -> Tensor:
    return torch.arange(_WORD_BITS, device=device)


def _valid_bits(grid: TileGrid, device: torch.device | str | None) -> Tensor:
    """int64 [words per row]: the bits that stand for tiles, the others being padding."""
    bits = torch.full((grid.words_shape[-1],), -1, device=device)
    if tiles_in_last_word := grid.k_tiles % _WORD_BITS:
        bits[-1] = (1 << tiles_in_last_word) - 1
    return bits


def _population(words: Tensor) -> Tensor:
    """Set bits of each int64 word, by sums of 2, 4 and 8 neighbours: torch has no popcount."""
    words = words - ((words >> 1) & 0x5555555555555555)
    words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (words * 0x0101010101010101) >> 56

"""How many operations SLA takes, part by part, beside full attention."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InvalidArgument
from .sla import Share
from .tile_mask import TileGrid

# Additions for each pair of a tile of queries and a tile of keys, by tables of four tiles for 32
# targets: 11 for a table and one for each target.
_BY_TABLES = (11 + 32) / (4 * 32)


@dataclass(frozen=True)
class SlaOperations:
    """Floating-point operations of one forward call, a multiply-add counted as two.

    ``full``: full attention, 4 * q_len * k_len * head_dim for each head and sample. ``routing``:
    the means of tiles and their logits. ``sparse``: softmax attention over the critical tiles.
    ``sums``: keys and values become the sums of their tiles. ``additions``: the sums of the
    marginal tiles of each tile of queries. ``queries``: these times the queries' features.
    ``projection``: proj_l. Feature maps, exponentials and sorting are not counted, except for the
    products of hedgehog, which are in ``sums`` and ``queries``.
    """

    full: float
    routing: float
    sparse: float
    sums: float
    additions: float
    queries: float
    projection: float

    @property
    def linear(self) -> float:
        """Of the linear branch, without its projection."""
        return self.sums + self.additions + self.queries

    @property
    def total(self) -> float:
        return self.routing + self.sparse + self.linear + self.projection

    @property
    def share(self) -> float:
        """Of full attention."""
        return self.total / self.full

    def effective_flops(self, seconds: float) -> float:
        """The rate at which full attention would have to run to take as long, per second."""
        if not seconds > 0:
            raise InvalidArgument(f"seconds must be greater than 0, got {seconds}")
        return self.full / seconds


def sla_operations(
    grid: TileGrid,
    head_dim: int,
    *,
    critical: Share = 0.05,
    negligible: Share = 0.10,
    feature_map: str = "softmax",
    linear: str = "marginal",
) -> SlaOperations:
    """What one forward call of SparseLinearAttention takes, from shapes and shares alone.

    Arguments as for SparseLinearAttention; a share is rounded as routing rounds it. Lengths are
    those of ``grid``, whose last tiles count as whole ones in ``sparse``. The additions are as the
    cpu backend does them, directly or by tables, whichever are fewer (docs/cpu.md).
    """
    if head_dim < 1:
        raise InvalidArgument(f"head_dim must be at least 1, got {head_dim}")
    samples, _, q_tiles, k_tiles = grid.shape
    heads = samples * grid.shape[1]
    tokens = grid.q_len + grid.k_len
    critical_tiles = max(1, _tiles_of("critical", critical, k_tiles))
    negligible_tiles = min(_tiles_of("negligible", negligible, k_tiles), k_tiles - critical_tiles)
    features = 2 * head_dim if feature_map == "hedgehog" else head_dim
    maps = 2 * head_dim * head_dim if feature_map == "hedgehog" else 0
    sum_of_tile = features * (head_dim + 1)
    if linear == "all":
        additions = k_tiles * sum_of_tile
    else:
        marginal = (k_tiles - critical_tiles - negligible_tiles) / k_tiles
        additions = q_tiles * k_tiles * min(marginal, _BY_TABLES) * sum_of_tile
    return SlaOperations(
        full=heads * 4.0 * grid.q_len * grid.k_len * head_dim,
        routing=heads * (float(tokens) * head_dim + 2.0 * q_tiles * k_tiles * head_dim),
        sparse=heads * 4.0 * grid.q_len * critical_tiles * grid.block_k * head_dim,
        sums=heads * grid.k_len * (maps + 2.0 * features * head_dim + features),
        additions=heads * float(additions),
        queries=heads * grid.q_len * (maps + 2.0 * features * (head_dim + 1)),
        projection=heads * 2.0 * grid.q_len * head_dim * head_dim,
    )


def _tiles_of(name: str, share: Share, tiles: int) -> int:
    if isinstance(share, bool) or not isinstance(share, (int, float)) or share < 0:
        raise InvalidArgument(f"{name} must be a share of 0 to 1 or a count, got {share!r}")
    if isinstance(share, float) and share > 1:
        raise InvalidArgument(f"{name} must be at most 1.0, or an int as a count, got {share}")
    return min(int(share * tiles) if isinstance(share, float) else share, tiles)

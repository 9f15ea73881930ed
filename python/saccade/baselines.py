"""The methods that LiteAttention is compared with, as choices of tiles for ``saccade.attention``.

    video = VideoLayout(frames=21, height=45, width=80)
    grid = saccade.TileGrid(1, 40, video.tokens, video.tokens)
    out = saccade.attention(q, k, v, tiles=radial_tiles(grid, video))

Each function returns a TileMask in which every row of tiles has an active one. Masks that only
depend on the shape lie on the CPU and serve every call of that shape. ``protected_queries`` and
``protected_keys`` are half-open (begin, end) ranges of tokens that every query sees and that see
every key, rounded outward to tiles. All functions raise InvalidArgument or Unsupported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from torch import Tensor

from . import _ops
from .errors import InvalidArgument, call
from .functional import Layout, bounds_of, heads_first, require_cpu, require_grid_of
from .sla import tile_share
from .tile_mask import TileGrid, TileMask

Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class VideoLayout:
    """How the tokens of a video are numbered.

    ``prefix`` tokens of text, then frame by frame the rows of each one after the other, then
    ``suffix`` tokens of text. The place of a token is its number within its frame. Text is always
    protected, as query and as key. A mask needs a grid whose lengths are ``tokens``.
    """

    frames: int
    height: int
    width: int
    prefix: int = 0
    suffix: int = 0

    @property
    def tokens(self) -> int:
        return self.prefix + self.frames * self.height * self.width + self.suffix


def random_tiles(
    grid: TileGrid,
    sparsity: float,
    *,
    seed: int = 0,
    protected_queries: Ranges = (),
    protected_keys: Ranges = (),
) -> TileMask:
    """Tiles at random: what the choice of a method is worth.

    Every head draws round((1 - sparsity) * tiles) of its own, and more only where protected tiles
    and one tile of each row are more. Those come first; the others are drawn from all that is left,
    equally likely. The same on every platform. ``sparsity`` is in [0, 1], ``seed`` any int64.
    """
    protected = bounds_of(protected_queries), bounds_of(protected_keys)
    extents = list(astuple(grid))
    return TileMask(grid, call(_ops.random_tiles, extents, sparsity, seed, *protected))


def radial_tiles(
    grid: TileGrid,
    video: VideoLayout,
    *,
    decay: float = 1.0,
    window: int = 128,
    sink_frames: int = 1,
    protected_queries: Ranges = (),
    protected_keys: Ranges = (),
) -> TileMask:
    """Radial Attention (arXiv 2506.19852): a static mask of O(n log n) logits.

    With s tokens per frame, tokens at places k and l of frames that are d apart meet if

        |k - l| + 1 <= max(w, window)  and  d mod ceil(window / w) = 0,
        w = decay * s / 2^floor(log2(d))

    and those of one frame always do. A tile is active if any of its tokens meet.

    Args:
        grid, video: the problem, and its tokens.
        decay: positive; the share of the paper's width w. 1 is the paper's.
        window: at least 1, in tokens: no band of keys is narrower; frames are left out instead. 1
            is the paper's, the size of a tile what its code does.
        sink_frames: frames, from the first, that every query sees.
        protected_queries, protected_keys: see the module.
    """
    words = call(
        _ops.radial_tiles,
        *(list(astuple(grid)), list(astuple(video)), decay, window, sink_frames),
        *(bounds_of(protected_queries), bounds_of(protected_keys)),
    )
    return TileMask(grid, words)


def spatial_tiles(
    grid: TileGrid,
    video: VideoLayout,
    *,
    share: float | int = 0.25,
    sink_frames: int = 1,
    protected_queries: Ranges = (),
    protected_keys: Ranges = (),
) -> TileMask:
    """The spatial mask of Sparse VideoGen (arXiv 2502.01776): the same and near frames.

    Every row of tiles keeps its nearest key tiles, equal ones by index. Their distance is the mean
    over the queries of that to the nearest key, in tokens numbered frame by frame.

    Args:
        grid, video: the problem, and its tokens.
        share: of the key tiles of a row, at least one: a float is a ratio, rounded down, an int a
            count. Tiles of text, sinks and protected tokens count, and all of them are kept.
        sink_frames: frames, from the first, that every query sees.
        protected_queries, protected_keys: see the module.
    """
    words = call(
        _ops.spatial_tiles,
        *(list(astuple(grid)), list(astuple(video)), *tile_share("share", share), sink_frames),
        *(bounds_of(protected_queries), bounds_of(protected_keys)),
    )
    return TileMask(grid, words)


def temporal_tiles(
    grid: TileGrid,
    video: VideoLayout,
    *,
    share: float | int = 0.25,
    sink_frames: int = 1,
    protected_queries: Ranges = (),
    protected_keys: Ranges = (),
) -> TileMask:
    """The temporal mask of Sparse VideoGen: the same and near places in all frames.

    As :func:`spatial_tiles`, with tokens numbered place by place: place * frames + frame.
    """
    words = call(
        _ops.temporal_tiles,
        *(list(astuple(grid)), list(astuple(video)), *tile_share("share", share), sink_frames),
        *(bounds_of(protected_queries), bounds_of(protected_keys)),
    )
    return TileMask(grid, words)


def svg_tiles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    spatial: TileMask,
    temporal: TileMask,
    scale: float | None = None,
    sampled_tiles: int = 16,
    rows_per_tile: int = 4,
    seed: int = 0,
    layout: Layout = "bhsd",
) -> TileMask:
    """The online profiling of Sparse VideoGen: each head takes the mask that suits it better.

    That is the one whose output is nearer to that of full attention, in sum of squares over sampled
    queries; ``spatial`` if both are equal or either is NaN.

    Args:
        q, k, v, scale, layout: as in :func:`saccade.attention`.
        spatial, temporal: the candidates, of one grid.
        sampled_tiles, rows_per_tile: the sample: so many rows of tiles, at most all of them, and so
            many queries of each, at most block_q. Rows of tiles cost more than queries.
        seed: of the sample, which is the same for all heads.
    """
    q, k, v = heads_first(q, k, v, layout)
    for mask in (spatial, temporal):
        require_grid_of(mask, q, k)
    if spatial.grid != temporal.grid:
        raise InvalidArgument(
            f"spatial and temporal must have one grid, got ({spatial.grid}) and ({temporal.grid})"
        )
    require_cpu(q=q, k=k, v=v, spatial=spatial.words, temporal=temporal.words)
    words = call(
        _ops.svg_tiles,
        *(q.detach(), k.detach(), v.detach(), spatial.words, temporal.words, scale),
        *(spatial.grid.block_q, spatial.grid.block_k, sampled_tiles, rows_per_tile, seed),
    )
    return TileMask(spatial.grid, words)


def pooled_tiles(
    q: Tensor,
    k: Tensor,
    *,
    share: float | int = 0.25,
    mass: float = 0.0,
    scale: float | None = None,
    block_q: int = 128,
    block_k: int = 64,
    protected_queries: Ranges = (),
    protected_keys: Ranges = (),
    layout: Layout = "bhsd",
    q_lens: Tensor | None = None,
    k_lens: Tensor | None = None,
) -> TileMask:
    """Selection anew at every step, as SpargeAttention (arXiv 2502.18137) and VSA do.

    The softmax weights between the means of the tiles rank the key tiles of every row of tiles, the
    highest first, equal ones by index; see :func:`saccade.select_tiles`.

    Args:
        q, k, scale, layout, q_lens, k_lens: as in :func:`saccade.attention`.
        share: of the key tiles of a row, at least one: a float is a ratio, rounded down, an int a
            count. Protected tiles count.
        mass: further tiles are active until their weights sum up to this; 0 = none. With
            ``share=1`` this is top-p selection.
        block_q, block_k: the tiles, 64 or 128.
        protected_queries, protected_keys: see the module.

    Tiles without a valid query or key stay inactive.
    """
    q, k, _ = heads_first(q, k, k, layout)
    require_cpu(q=q, k=k, q_lens=q_lens, k_lens=k_lens)
    grid = TileGrid(*q.shape[:3], k.shape[2], block_q, block_k)
    words = call(
        _ops.pooled_tiles,
        *(q.detach(), k.detach(), q_lens, k_lens, scale, block_q, block_k),
        *(*tile_share("share", share), mass),
        *(bounds_of(protected_queries), bounds_of(protected_keys)),
    )
    return TileMask(grid, words)

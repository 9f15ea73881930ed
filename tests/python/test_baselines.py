"""saccade.baselines: masks by definition, selection by brute force, and the operators."""

import pytest
import torch

import saccade
from problems import DTYPES, LAYOUTS, make_problem
from saccade import InvalidArgument, TileGrid, TileMask
from saccade.baselines import (
    VideoLayout,
    pooled_tiles,
    radial_tiles,
    random_tiles,
    spatial_tiles,
    svg_tiles,
    temporal_tiles,
)

ops = torch.ops.saccade

VIDEO = VideoLayout(frames=5, height=9, width=13, prefix=10, suffix=20)  # 615 tokens
STATIC = (radial_tiles, spatial_tiles, temporal_tiles)


def grid_of(video, block_q=64, block_k=64, batch=1, heads=1):
    return TileGrid(batch, heads, video.tokens, video.tokens, block_q, block_k)


def tiles_where(grid, meets):
    """The tiles that hold a true element of a [q_len, k_len] matrix."""
    padding = (0, -grid.k_len % grid.block_k, 0, -grid.q_len % grid.block_q)
    padded = torch.nn.functional.pad(meets, padding)
    blocks = padded.unflatten(1, (-1, grid.block_k)).unflatten(0, (-1, grid.block_q))
    return blocks.any(3).any(1)


def frames_and_places(video):
    tokens = torch.arange(video.tokens) - video.prefix
    is_text = (tokens < 0) | (tokens >= video.tokens - video.prefix - video.suffix)
    per_frame = video.height * video.width
    return is_text, tokens // per_frame, tokens % per_frame


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.9, 1.0])
def test_random_tiles_are_exactly_as_many(sparsity):
    grid = TileGrid(2, 3, 700, 1100)
    active = random_tiles(grid, sparsity, seed=5).to_dense()
    wanted = max(6, round((1 - sparsity) * 6 * 18))
    assert (active.sum((2, 3)) == wanted).all()
    assert active.any(3).all()
    assert torch.equal(active, random_tiles(grid, sparsity, seed=5).to_dense())


def test_seeds_differ():
    grid = TileGrid(1, 2, 700, 1100)
    masks = [random_tiles(grid, 0.5, seed=seed).words for seed in (0, 1, -1)]
    assert not torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(
    ("decay", "window", "sink_frames"), [(1.0, 128, 1), (0.2, 16, 0), (0.05, 1, 2)]
)
def test_radial_tiles_are_those_of_their_equation(decay, window, sink_frames):
    is_text, frame, place = frames_and_places(VIDEO)
    distance = (frame[:, None] - frame).abs()
    w = decay * VIDEO.height * VIDEO.width / 2 ** distance.clamp(min=1).double().log2().floor()
    meets = ((place[:, None] - place).abs() + 1 <= w.clamp(min=window)) & (
        distance % (window / w).ceil() == 0
    )
    meets |= (distance == 0) | is_text[:, None] | is_text | (frame < sink_frames)
    for blocks in ((64, 64), (128, 64)):
        grid = grid_of(VIDEO, *blocks, batch=2, heads=2)
        mask = radial_tiles(grid, VIDEO, decay=decay, window=window, sink_frames=sink_frames)
        assert (mask.to_dense() == tiles_where(grid, meets)).all()


def test_spatial_tiles_are_neighbours_and_temporal_ones_the_same_places():
    video = VideoLayout(frames=3, height=16, width=16)  # four tiles a frame
    grid = grid_of(video)
    spatial = spatial_tiles(grid, video, share=3, sink_frames=0).to_dense()[0, 0]
    temporal = temporal_tiles(grid, video, share=0.25, sink_frames=0).to_dense()[0, 0]
    tiles = torch.arange(12)
    assert torch.equal(temporal, tiles[:, None] % 4 == tiles % 4)
    assert torch.equal(spatial, (tiles[:, None].clamp(1, 10) - tiles).abs() <= 1)


@pytest.mark.parametrize("make", STATIC)
def test_text_and_protected_tokens_see_and_are_seen(make):
    grid = grid_of(VIDEO, 128, 64)
    options = {"sink_frames": 0}
    active = make(grid, VIDEO, protected_queries=[(300, 301)], **options).to_dense()[0, 0]
    assert active[[0, 2, 4]].all(), "text at both ends, token 300"
    assert active[:, [0, 9]].all()
    both = make(grid, VIDEO, protected_keys=[(300, 400)], **options).to_dense()[0, 0]
    assert both[:, 4:7].all()


@pytest.mark.parametrize("make", STATIC)
def test_videos_of_another_length_are_refused(make):
    with pytest.raises(InvalidArgument, match="q_len is 614, but the video has 615 tokens"):
        make(TileGrid(1, 1, 614, 614), VIDEO)
    with pytest.raises(InvalidArgument, match=r"sink_frames is 6, but must be .* at most 5"):
        make(grid_of(VIDEO), VIDEO, sink_frames=6)


def best_by_definition(problem, candidates):
    """[batch, heads]: which candidate has the smaller error over all queries."""
    dense = saccade.attention(problem.q, problem.k, problem.v)
    errors = [
        (saccade.attention(problem.q, problem.k, problem.v, tiles=mask) - dense).double().square()
        for mask in candidates
    ]
    return errors[1].sum((2, 3)) < errors[0].sum((2, 3))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_svg_gives_each_head_the_better_mask(dtype, layout):
    """Every other query head looks for its own frame, the others for their own place."""
    video = VideoLayout(frames=4, height=16, width=16)
    problem = make_problem(
        batch=2, q_heads=4, k_heads=2, q_len=1024, k_len=1024, dtype=dtype, layout=layout
    )
    _, frame, place = frames_and_places(video)
    problem.q.zero_()
    problem.k.zero_()
    for x, value in ((problem.q, 8), (problem.k, 8)):
        x[:, ::2, torch.arange(1024), frame] = value
        x[:, 1::2, torch.arange(1024), 32 + place // 64] = value
    problem.k.copy_(problem.k + problem.k.flip(1))  # both kinds of query read every key
    grid = grid_of(video, heads=4, batch=2)
    spatial = spatial_tiles(grid, video, share=7, sink_frames=0)
    temporal = temporal_tiles(grid, video, share=7, sink_frames=0)
    tensors = [
        x.transpose(1, 2) if layout == "bshd" else x for x in (problem.q, problem.k, problem.v)
    ]
    mask = svg_tiles(*tensors, spatial=spatial, temporal=temporal, layout=layout)
    is_temporal = best_by_definition(problem, (spatial, temporal))
    assert torch.equal(is_temporal, torch.tensor([[False, True, False, True]] * 2))
    expected = torch.where(is_temporal[..., None, None], temporal.words, spatial.words)
    assert torch.equal(mask.words, expected)


def test_svg_refuses_what_it_cannot_compare():
    x = torch.randn(1, 2, 615, 16)
    grid = grid_of(VIDEO, heads=2)
    mask = spatial_tiles(grid, VIDEO)
    other = spatial_tiles(grid_of(VIDEO, 128, 64, heads=2), VIDEO)
    with pytest.raises(InvalidArgument, match="spatial and temporal must have one grid"):
        svg_tiles(x, x, x, spatial=mask, temporal=other)
    with pytest.raises(InvalidArgument, match=r"rows_per_tile is 65, but must be .* at most 64"):
        svg_tiles(x, x, x, spatial=mask, temporal=mask, rows_per_tile=65)
    with pytest.raises(InvalidArgument, match="but q and k need"):
        svg_tiles(x[:, :, 1:], x, x, spatial=mask, temporal=mask)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pooled_tiles_are_the_highest_ranks(layout):
    problem = make_problem(q_heads=4, k_heads=2, q_len=640, k_len=896, layout=layout)
    tensors = [x.transpose(1, 2) if layout == "bshd" else x for x in (problem.q, problem.k)]
    mask = pooled_tiles(*tensors, share=0.5, layout=layout)
    means = [
        problem.q.unflatten(2, (-1, 128)).mean(3),
        problem.k.repeat_interleave(2, 1).unflatten(2, (-1, 64)).mean(3),
    ]
    best = (means[0] @ means[1].mT).topk(7, -1).indices
    expected = torch.zeros(mask.grid.shape, dtype=torch.bool).scatter(3, best, True)
    assert torch.equal(mask.to_dense(), expected)


def test_pooled_top_p_reaches_its_mass():
    problem = make_problem(q_len=640, k_len=896)
    active = pooled_tiles(problem.q, problem.k, share=1, mass=0.6, scale=5.0).to_dense()
    q, k = problem.q.unflatten(2, (-1, 128)).mean(3), problem.k.unflatten(2, (-1, 64)).mean(3)
    weights = (5.0 * q.double() @ k.double().mT).softmax(-1)
    kept = weights.where(active, 0)
    assert (kept.sum(-1) >= 0.6 - 1e-6).all()
    smallest = weights.where(active, 2).amin(-1)
    assert (kept.sum(-1) - smallest < 0.6 + 1e-6).all(), "one tile less would not reach it"


def test_pooled_tiles_respect_lengths_and_protection():
    problem = make_problem(q_len=256, k_len=640)
    k_lens = torch.tensor([200], dtype=torch.int32)
    protected = {"protected_queries": [(0, 1)], "protected_keys": [(130, 131)]}
    active = pooled_tiles(problem.q, problem.k, share=1, k_lens=k_lens, **protected).to_dense()
    assert active[:, :, 0, :4].all()
    assert active[:, :, :, 2].all()
    assert active[:, :, 1].sum() == 2, "the protected tile of each head is its share"
    assert not active[..., 4:].any()


@pytest.mark.parametrize("share", [True, "half", -1, 1.5])
def test_shares_are_ratios_or_counts(share):
    with pytest.raises(InvalidArgument):
        spatial_tiles(grid_of(VIDEO), VIDEO, share=share)
    with pytest.raises(InvalidArgument):
        pooled_tiles(torch.randn(1, 1, 64, 16), torch.randn(1, 1, 64, 16), share=share)


def test_opcheck():
    extents, video = [1, 2, 615, 615, 64, 64], [5, 9, 13, 10, 20]
    x = torch.randn(1, 2, 615, 16)
    candidates = [ops.spatial_tiles(extents, video, 0.3, -1, 1, [], []) for _ in range(2)]
    tests = ("test_schema", "test_faketensor")
    for op, arguments in (
        (ops.random_tiles, (extents, 0.5, 0, [], [])),
        (ops.radial_tiles, (extents, video, 1.0, 128, 1, [], [])),
        (ops.spatial_tiles, (extents, video, 0.3, -1, 1, [], [])),
        (ops.temporal_tiles, (extents, video, 0.3, -1, 1, [], [0, 3])),
        (ops.svg_tiles, (x, x, x, *candidates, None, 64, 64, 16, 4, 0)),
        (ops.pooled_tiles, (x, x, None, None, None, 64, 128, 0.3, -1, 0.0, [], [])),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=tests)


def attend_to_pooled_tiles(q, k, v):
    return saccade.attention(q, k, v, tiles=pooled_tiles(q, k, share=0.4))


def test_pooled_selection_compiles_whole():
    torch.compiler.reset()
    problem = make_problem(q_len=300, k_len=500)
    tensors = problem.q, problem.k, problem.v
    compiled = torch.compile(attend_to_pooled_tiles, fullgraph=True)
    assert torch.equal(compiled(*tensors), attend_to_pooled_tiles(*tensors))


def test_masks_serve_attention():
    grid = grid_of(VIDEO, 128, 64, heads=2)
    x = torch.randn(1, 2, VIDEO.tokens, 16, generator=torch.Generator().manual_seed(0))
    for mask in (radial_tiles(grid, VIDEO), random_tiles(grid, 0.5), TileMask.full(1, 2, 615, 615)):
        assert saccade.attention(x, x, x, tiles=mask).isfinite().all()

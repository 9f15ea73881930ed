"""The baselines inside diffusers' Wan: tiles of saccade.baselines, at the steps of a schedule."""

from __future__ import annotations

import time

import pytest
import torch
from diffusers import WanTransformer3DModel

import saccade
from saccade import baselines
from saccade.baselines import VideoLayout
from wan_models import PATHS, call, generate, latents_of, make_pipeline, make_transformer

VIDEO = VideoLayout(frames=5, height=8, width=8)  # of wan_models.latents_of
GRID = saccade.TileGrid(1, 2, 320, 320, 64, 64)
SCHEDULE = saccade.LiteSchedule(dense_first_steps=1, must_do_keys=((0, 10),))
PROTECTED = {"protected_queries": [(300, 310)], "protected_keys": [(0, 10)]}
OPTIONS = {
    "random": {"sparsity": 0.6, "seed": 7},
    "radial": {"decay": 0.5, "window": 32, "sink_frames": 0},
    "svg": {"share": 2, "sink_frames": 0, "sampled_tiles": 3, "rows_per_tile": 2, "seed": 5},
    "pooled": {"share": 0.2, "mass": 0.1},
}


def tiles_of(method, layer, q, k, v):
    options = dict(OPTIONS[method])
    if method == "random":
        seed = options.pop("seed") + layer
        return baselines.random_tiles(GRID, **options, seed=seed, **PROTECTED)
    if method == "radial":
        return baselines.radial_tiles(GRID, VIDEO, **options, **PROTECTED)
    if method == "pooled":
        blocks = {"block_q": 64, "block_k": 64, "layout": "bshd"}
        return baselines.pooled_tiles(q, k, **options, **blocks, **PROTECTED)
    of_masks = {name: options.pop(name) for name in ("share", "sink_frames")}
    masks = {
        "spatial": baselines.spatial_tiles(GRID, VIDEO, **of_masks, **PROTECTED),
        "temporal": baselines.temporal_tiles(GRID, VIDEO, **of_masks, **PROTECTED),
    }
    return baselines.svg_tiles(q, k, v, **masks, layout="bshd", **options)


@pytest.mark.parametrize("method", OPTIONS)
def test_a_baseline_computes_its_tiles(method):
    """The same bits as with tiles made here; dense where the schedule says so."""
    counts = {path: [] for path in PATHS}

    def factory(path):
        def attend(q, k, v, *, step, branch):
            mask = None if step == 0 else tiles_of(method, PATHS.index(path), q, k, v)
            counts[path].append([[25, 25]] if mask is None else mask.count_by_head().tolist())
            return saccade.attention(q, k, v, tiles=mask, layout="bshd")

        return attend

    by_hand, transformer = make_transformer(), make_transformer()
    saccade.enable(by_hand, factory)
    saccade.enable(
        transformer,
        method,
        schedule=SCHEDULE,
        block_q=64,
        protected_queries=[(300, 310)],
        **OPTIONS[method],
    )
    for timestep in (1000, 900, 800):
        assert torch.equal(call(transformer, timestep), call(by_hand, timestep))
    for layer in saccade.summary(transformer).layers:
        assert [c.active.tolist() for c in layer.calls] == counts[layer.path]
        assert [c.is_dense for c in layer.calls] == [True, False, False]
        assert all(c.tiles == 25 for c in layer.calls)
        assert layer.calls[1].sparsity > 0
    assert "-inf" in saccade.summary(transformer).to_json()


@pytest.mark.parametrize("method", OPTIONS)
def test_a_pipeline_runs_with_the_defaults(method):
    pipeline = make_pipeline()
    saccade.enable(pipeline, method)
    first = generate(pipeline)
    assert torch.equal(generate(pipeline), first)
    calls = saccade.summary(pipeline).layers[1].calls
    assert [(c.step, c.branch) for c in calls] == [
        (i, b) for i in range(3) for b in ("cond", "uncond")
    ]
    assert [c.is_dense for c in calls] == [True] * 2 + [False] * 4
    assert all(c.active.min() >= 3 for c in calls)
    saccade.disable(pipeline)


def test_dense_layers_of_a_baseline():
    transformer = make_transformer()
    schedule = saccade.LiteSchedule(dense_first_steps=0, dense_layers=("*.1.*",))
    saccade.enable(transformer, "random", schedule=schedule, dense_layers=[0])
    call(transformer, 1000)
    assert saccade.summary(transformer).sparsity == 0
    saccade.disable(transformer)
    saccade.enable(transformer, "random", schedule=schedule, sparsity=0.5)
    call(transformer, 1000)
    sparse, dense = saccade.summary(transformer).layers
    assert (sparse.calls[0].active.tolist(), dense.calls[0].sparsity) == ([[8, 8]], 0)


def test_random_tiles_stay_and_differ_between_layers():
    transformer = make_transformer()
    saccade.enable(transformer, "random")
    masks = []
    for layer in saccade.summary(transformer).layers:
        q = torch.zeros(1, 320, 2, 64)
        grid = saccade.TileGrid(1, 2, 320, 320)
        masks.append([layer.attention.choice(q, q, q, grid, None).words for _ in range(2)])
    assert all(torch.equal(*pair) for pair in masks)
    assert not torch.equal(masks[0][0], masks[1][0])


def test_the_video_follows_the_latent():
    transformer = make_transformer()
    saccade.enable(transformer, "radial", schedule=saccade.LiteSchedule(dense_first_steps=0))
    for frames in (5, 6, 5):
        call(transformer, 1000, latents=latents_of(frames=frames))
        video = VideoLayout(frames, 8, 8)
        grid = saccade.TileGrid(1, 2, video.tokens, video.tokens)
        expected = baselines.radial_tiles(grid, video).count_by_head()
        assert torch.equal(saccade.summary(transformer).calls[0].active, expected)


def test_any_attention_may_ask_for_the_video():
    transformer = make_transformer()
    seen = []

    def attend(q, k, v, *, step, branch, video):
        seen.append(video)
        return saccade.attention(q, k, v, layout="bshd")

    saccade.enable(transformer, lambda path: attend)
    call(transformer, 1000)
    saccade.disable(transformer)
    saccade.enable(transformer, lambda path: attend, token_order="space_time")
    call(transformer, 1000)
    assert seen == [VIDEO, VIDEO, None, None]


def test_choosing_is_part_of_the_measured_time(monkeypatch):
    def sleepy(*args, **kwargs):
        time.sleep(0.02)
        return choose(*args, **kwargs)

    choose = baselines.pooled_tiles
    monkeypatch.setattr(baselines, "pooled_tiles", sleepy)
    transformer = make_transformer()
    saccade.enable(transformer, "pooled", schedule=saccade.LiteSchedule(dense_first_steps=0))
    call(transformer, 1000)
    assert all(c.seconds >= 0.02 for c in saccade.summary(transformer).calls)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("random", {"sparsity": 2.0}, "sparsity"),
        ("random", {"share": 0.5}, "'random' has no option 'share'; .*'sparsity'"),
        ("radial", {"decay": 0.0}, "decay"),
        ("radial", {"window": 0}, "window"),
        ("svg", {"rows_per_tile": 0}, "rows_per_tile"),
        ("svg", {"sampled_tiles": 0}, "sampled_tiles"),
        ("pooled", {"mass": 2.0}, "mass"),
        ("pooled", {"block_k": 32}, "block_k must be 64 or 128"),
        ("pooled", {"threshold": -1.0}, "'pooled' has no option 'threshold'"),
        ("pooled", {"dense_layers": [2]}, "dense_layers has 2"),
        (
            "radial",
            {"schedule": saccade.LiteSchedule(must_skip_keys=((64, 128),))},
            "'radial' cannot leave out",
        ),
        ("radial", {"token_order": "space_time"}, "'radial' needs the tokens frame by frame"),
        ("svg", {"token_order": (1, 8, 8)}, "'svg' needs the tokens frame by frame"),
    ],
)
def test_refused_options_change_nothing(method, options, message):
    transformer = make_transformer()
    before = transformer.blocks[0].attn1.processor
    with pytest.raises(saccade.InvalidArgument, match=message):
        saccade.enable(transformer, method, **options)
    assert transformer.blocks[0].attn1.processor is before


def test_the_place_of_tokens_is_known_for_wan_only():
    class Other(WanTransformer3DModel):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    transformer = make_transformer()
    transformer.__class__ = Other
    for method in ("radial", "svg"):
        with pytest.raises(saccade.Unsupported, match=f"'{method}' is for .*, got Other"):
            saccade.enable(transformer, method)
    saccade.enable(transformer, "pooled")
    call(transformer, 1000)
    call(transformer, 900)
    assert saccade.summary(transformer).sparsity > 0

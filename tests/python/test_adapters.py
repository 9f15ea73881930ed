"""saccade.enable: what the layers of diffusers' Wan compute, at which step of which branch."""

from __future__ import annotations

import math

import pytest
import torch

import saccade
from wan_models import (
    PATHS,
    call,
    generate,
    latents_of,
    make_pipeline,
    make_transformer,
    masks_of,
    steps_of,
)


def test_dense_is_the_untouched_model():
    pipeline = make_pipeline()
    untouched = generate(pipeline)
    saccade.enable(pipeline, method="dense")
    torch.testing.assert_close(generate(pipeline), untouched, rtol=1e-4, atol=1e-4)
    assert steps_of(pipeline) == [(i, b) for i in range(3) for b in ("cond", "uncond")]
    assert saccade.summary(pipeline).sparsity == 0


def test_minus_infinity_is_dense_over_full_masks():
    pipeline = make_pipeline()
    full = saccade.TileMask.full(1, 2, 320, 320)

    def attend_full(q, k, v, *, step, branch):
        return saccade.attention(q, k, v, tiles=full, layout="bshd")

    results = []
    for method, options in (
        (lambda path: attend_full, {}),
        ("lite", {"threshold": -math.inf}),
        ("dense", {}),
    ):
        saccade.enable(pipeline, method=method, **options)
        results.append(generate(pipeline))
        saccade.disable(pipeline)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[1], results[2])


def test_lite_skips_and_stays_close():
    pipeline = make_pipeline()
    untouched = generate(pipeline, steps=4)
    saccade.enable(pipeline, threshold=-6.0)
    sparse = generate(pipeline, steps=4)
    summary = saccade.summary(pipeline)
    assert [c.is_dense for c in summary.layers[0].calls] == [True] * 2 + [False] * 6
    assert summary.layers[0].calls[0].sparsity == 0
    assert summary.sparsity > 0.02
    assert not torch.equal(sparse, untouched)
    torch.testing.assert_close(sparse, untouched, rtol=0.05, atol=0.05)


def test_cross_attention_is_untouched():
    transformer = make_transformer()
    seen = []

    def factory(path):
        def attend(q, k, v, *, step, branch):
            seen.append((path, step, branch, tuple(q.shape), tuple(k.shape)))
            return saccade.attention(q, k, v, layout="bshd")

        return attend

    cross = [block.attn2.processor for block in transformer.blocks]
    saccade.enable(transformer, method=factory)
    call(transformer, 1000)
    shape = (1, 320, 2, 64)
    assert seen == [(path, 0, "cond", shape, shape) for path in PATHS]
    assert all(
        b.attn2.processor is p and p._attention_backend is None
        for b, p in zip(transformer.blocks, cross, strict=True)
    )


def test_options_reach_the_layers():
    transformer = make_transformer()
    schedule = saccade.LiteSchedule(thresholds=(-5.0, -4.0), num_steps=2)
    options = {
        "schedule": schedule,
        "block_q": 64,
        "block_k": 128,
        "order": "alternating",
        "protected_queries": [(0, 1)],
        "protected_keys": [(5, 7)],
    }
    saccade.enable(transformer, **options)
    for layer in saccade.summary(transformer).layers:
        expected = saccade.LiteAttention(layout="bshd", layer=layer.path, **options)
        assert vars(layer.attention) == vars(expected)


def test_strongest_first_and_skipped_values_run_in_a_model():
    plain, transformer = make_transformer(), make_transformer()
    saccade.enable(plain, threshold=-1.0)
    saccade.enable(transformer, threshold=-1.0, order="strongest", skips_values=True)
    assert torch.equal(call(transformer, 1000), call(plain, 1000))  # dense, in linear order
    assert not torch.equal(call(transformer, 900), call(plain, 900))
    for layer in saccade.summary(transformer).layers:
        assert layer.attention.facts["order"] == "strongest"
        assert layer.attention.states["cond"].scores is not None


@pytest.mark.parametrize("dense_layers", [[1], ["blocks.1.attn1"], 1, "blocks.1.attn1"])
def test_dense_layers(dense_layers):
    transformer = make_transformer()
    saccade.enable(transformer, threshold=0.0, dense_layers=dense_layers)
    call(transformer, 1000)
    call(transformer, 900)
    first, second = saccade.summary(transformer).layers
    assert isinstance(first.attention, saccade.LiteAttention)
    assert [c.is_dense for c in first.calls] == [True, False]
    assert [c.is_dense for c in second.calls] == [True, True]
    assert (first.calls[1].sparsity > 0, second.calls[1].sparsity) == (True, 0)


def test_branches_do_not_share_tiles():
    alone, both = make_transformer(), make_transformer()
    for transformer in (alone, both):
        saccade.enable(transformer, threshold=-6.0)
    for timestep in (1000, 900, 800):
        expected = call(alone, timestep)
        assert torch.equal(call(both, timestep), expected)
        call(both, timestep, "uncond", latents=latents_of(1))
    assert all(torch.equal(a, b) for a, b in zip(masks_of(alone), masks_of(both), strict=True))
    assert not torch.equal(masks_of(both)[1], masks_of(both, "uncond")[1])


def test_a_second_generation_starts_full():
    pipeline = make_pipeline()
    saccade.enable(pipeline, threshold=-6.0)
    first = generate(pipeline)
    assert saccade.summary(pipeline).sparsity > 0
    assert torch.equal(generate(pipeline), first)
    assert len(steps_of(pipeline)) == 6
    generate(pipeline, guidance_scale=1.0)
    assert steps_of(pipeline) == [(0, "cond"), (1, "cond"), (2, "cond")]
    assert len(saccade.summary(pipeline).layers[0].attention.statistics) == 3


@pytest.mark.parametrize("branch", ["cond", None])
def test_a_rising_timestep_begins_a_generation(branch):
    transformer = make_transformer()
    saccade.enable(transformer, threshold=-6.0)
    for _ in range(2):
        for timestep in (1000, 900, 800):
            call(transformer, timestep, branch)
        assert steps_of(transformer) == [(0, "cond"), (1, "cond"), (2, "cond")]


def test_a_generation_of_one_step_can_be_repeated():
    pipeline = make_pipeline()
    saccade.enable(pipeline, threshold=-6.0)
    assert torch.equal(generate(pipeline, steps=1), generate(pipeline, steps=1))
    transformer = make_transformer()
    saccade.enable(transformer, threshold=-6.0)
    for _ in range(2):
        call(transformer, 1000, "cond")
        call(transformer, 1000, "uncond")
        assert steps_of(transformer) == [(0, "cond"), (0, "uncond")]


def test_a_new_generation_may_begin_where_the_pipeline_ended():
    pipeline = make_pipeline()
    saccade.enable(pipeline)
    last = []
    generate(pipeline, callback_on_step_end=lambda p, i, t, kw: last.append(float(t)) or kw)
    call(pipeline.transformer, last[-1])
    assert steps_of(pipeline) == [(0, "cond")]


@pytest.mark.parametrize("other", [{"batch": 2}, {"frames": 6}])
def test_other_shapes_start_full(other):
    transformer, fresh = make_transformer(), make_transformer()
    for model in (transformer, fresh):
        saccade.enable(model, schedule=saccade.LiteSchedule(-6.0, dense_first_steps=0))
    for timestep in (1000, 900, 800):
        call(transformer, timestep)
    assert saccade.summary(transformer).layers[0].calls[-1].sparsity > 0
    latents = latents_of(**other)
    assert torch.equal(call(transformer, 700, latents=latents), call(fresh, 700, latents=latents))
    assert saccade.summary(transformer).layers[0].calls[-1].sparsity == 0
    assert steps_of(transformer)[-1] == (3, "cond")


def test_two_models_do_not_meet():
    alone, one, two = make_transformer(0), make_transformer(0), make_transformer(1)
    for model in (alone, one, two):
        saccade.enable(model, threshold=-6.0)
    for timestep in (1000, 900, 800):
        expected = call(alone, timestep)
        assert torch.equal(call(one, timestep), expected)
        call(two, timestep / 3)
    assert all(torch.equal(a, b) for a, b in zip(masks_of(alone), masks_of(one), strict=True))
    assert steps_of(one) == steps_of(two)
    before = steps_of(one)
    saccade.disable(two)
    assert steps_of(one) == before
    call(one, 700)


def test_the_two_transformers_of_wan_2_2_count_their_own_steps():
    pipeline = make_pipeline(boundary_ratio=0.6)
    saccade.enable(pipeline, threshold=-6.0)
    generate(pipeline, steps=5)
    layers = saccade.summary(pipeline).layers
    assert [layer.path for layer in layers] == [
        f"{part}.{path}" for part in ("transformer", "transformer_2") for path in PATHS
    ]
    first, second = (steps_of(pipeline, layer) for layer in (0, 2))
    assert len(first) + len(second) == 10
    assert len(first) == 4 or len(second) == 4
    for steps in (first, second):
        assert steps == [(i, b) for i in range(len(steps) // 2) for b in ("cond", "uncond")]
    assert steps_of(pipeline.transformer_2) == second
    saccade.disable(pipeline.transformer)
    assert len(saccade.summary(pipeline).layers) == 2
    saccade.disable(pipeline)


def test_an_interrupted_pipeline_runs_again():
    pipeline = make_pipeline()
    saccade.enable(pipeline, threshold=-6.0)
    expected = generate(pipeline)
    calls = []

    def fail_in_the_fourth_call(module, arguments):
        calls.append(module)
        if len(calls) == 4:
            raise KeyboardInterrupt

    handle = pipeline.transformer.blocks[1].attn1.register_forward_pre_hook(fail_in_the_fourth_call)
    with pytest.raises(KeyboardInterrupt):
        generate(pipeline)
    handle.remove()
    assert steps_of(pipeline) == [(0, "cond"), (0, "uncond"), (1, "cond"), (1, "uncond")]
    assert torch.equal(generate(pipeline), expected)


@pytest.mark.parametrize("branch", ["cond", None])
def test_a_call_that_failed_can_be_made_again(branch):
    transformer = make_transformer()
    saccade.enable(transformer)
    for step, timestep in enumerate((1000, 900)):
        with pytest.raises(RuntimeError, match="shape"):
            call(transformer, timestep, branch, text=torch.zeros(1, 8, 31))
        call(transformer, timestep, branch)
        assert steps_of(transformer)[-1] == (step, "cond")

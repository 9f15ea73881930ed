"""Guidance branches and experts inside diffusers' models: each its own state, or one mask."""

from __future__ import annotations

import pytest
import torch

import saccade
from wan_models import (
    call,
    generate,
    latents_of,
    make_pipeline,
    make_transformer,
    masks_of,
    steps_of,
    text_of,
)

TIMESTEPS = (1000, 900, 800, 700)
# Spatio-temporal and modality guidance call the transformer three or four times at each step.
BRANCHES = ("cond", "uncond", "perturbed", "isolated")


def latents_and_text(number):
    return {"latents": latents_of(number), "text": text_of(number)}


@pytest.mark.parametrize("branches", [BRANCHES[:3], BRANCHES])
def test_every_guidance_branch_is_as_if_alone(branches):
    together = make_transformer()
    saccade.enable(together, threshold=-6.0)
    outputs = {
        (t, b): call(together, t, b, **latents_and_text(i))
        for t in TIMESTEPS
        for i, b in enumerate(branches)
    }
    assert steps_of(together) == [(step, b) for step in range(4) for b in branches]
    for i, branch in enumerate(branches):
        alone = make_transformer()
        saccade.enable(alone, threshold=-6.0)
        for t in TIMESTEPS:
            expected = call(alone, t, branch, **latents_and_text(i))
            assert torch.equal(outputs[t, branch], expected)
        masks = zip(masks_of(together, branch), masks_of(alone, branch), strict=True)
        assert all(torch.equal(one, two) for one, two in masks)
    masks = [masks_of(together, branch)[1] for branch in branches]
    assert not any(torch.equal(masks[0], mask) for mask in masks[1:])


def test_a_branch_that_rests_goes_on_where_it_was():
    """Guidance in a part of the steps only."""
    transformer = make_transformer()
    saccade.enable(transformer, threshold=-6.0)
    for t in TIMESTEPS:
        call(transformer, t, "cond")
        if t != 900:
            before = [m.clone() for m in masks_of(transformer, "uncond")] if t < 900 else None
            call(transformer, t, "uncond", **latents_and_text(1))
            if t == 800:
                last = saccade.summary(transformer).layers[1].calls[-1]
                assert last.step == 2
                tiles = saccade.TileMask(saccade.TileGrid(1, 2, 320, 320), before[1])
                assert int(last.active.sum()) == tiles.count()
    assert [s for s, b in steps_of(transformer) if b == "uncond"] == [0, 2, 3]


@pytest.mark.parametrize("options", [{}, {"shares_masks": True}])
def test_the_experts_of_wan_2_2_are_as_if_alone(options):
    pipeline = make_pipeline(boundary_ratio=0.6)
    saccade.enable(pipeline, threshold=-6.0, **options)
    experts = {"transformer": pipeline.transformer, "transformer_2": pipeline.transformer_2}
    inputs = {name: [] for name in experts}
    handles = [
        expert.register_forward_pre_hook(
            lambda _module, _args, kwargs, name=name: inputs[name].append(kwargs), with_kwargs=True
        )
        for name, expert in experts.items()
    ]
    generate(pipeline, steps=8)
    for handle in handles:
        handle.remove()
    for seed, (name, expert) in enumerate(experts.items()):
        alone = make_transformer(seed)
        saccade.enable(alone, threshold=-6.0, **options)
        assert len(inputs[name]) >= 4
        for number, kwargs in enumerate(inputs[name]):
            with alone.cache_context("uncond" if number % 2 else "cond"):
                alone(**kwargs)
        for branch in ("cond", "uncond"):
            masks = zip(masks_of(expert, branch), masks_of(alone, branch), strict=True)
            assert all(torch.equal(one, two) for one, two in masks)
        found, expected = saccade.summary(expert), saccade.summary(alone)
        assert [c.active.tolist() for c in found.calls] == [
            c.active.tolist() for c in expected.calls
        ]
        assert found.calls[0].is_dense
        assert found.sparsity > 0
    layers = saccade.summary(pipeline).layers
    assert len({layer.path.split(".")[0] for layer in layers}) == 2


def test_guidance_in_a_batch_is_guidance_in_turn():
    """One call of batch 2 keeps one mask for each entry: those of two calls."""
    batched, in_turn = make_transformer(), make_transformer()
    for model in (batched, in_turn):
        saccade.enable(model, threshold=-6.0)
    both = {
        "latents": torch.cat([latents_of(0), latents_of(1)]),
        "text": torch.cat([text_of(0), text_of(1)]),
    }
    for t in TIMESTEPS:
        found = call(batched, t, None, **both)
        expected = [call(in_turn, t, b, **latents_and_text(i)) for i, b in enumerate(BRANCHES[:2])]
        torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-4)
    for layer, mask in enumerate(masks_of(batched)):
        branches = [masks_of(in_turn, branch)[layer] for branch in BRANCHES[:2]]
        assert torch.equal(mask, torch.cat(branches))
    assert steps_of(batched) == [(i, "cond") for i in range(4)]
    assert saccade.summary(batched).sparsity == pytest.approx(saccade.summary(in_turn).sparsity)


def test_branches_that_share_masks_compute_the_same_tiles(tmp_path):
    shared, apart = make_transformer(), make_transformer()
    saccade.enable(shared, threshold=-6.0, shares_masks=True)
    saccade.enable(apart, threshold=-6.0)
    for t in TIMESTEPS:
        for i, branch in enumerate(BRANCHES[:3]):
            for model in (shared, apart):
                call(model, t, branch, **latents_and_text(i))
    for layer in saccade.summary(shared).layers:
        by_step = [
            {c.active.tolist().__str__() for c in layer.calls if c.step == s} for s in range(4)
        ]
        assert all(len(counts) == 1 for counts in by_step)
    found, whole = saccade.summary(shared), saccade.summary(apart)
    assert 0 < found.sparsity <= whole.sparsity
    assert found.state_bytes * 3 == whole.state_bytes
    saccade.save_state(shared, tmp_path / "shared")
    saccade.save_state(apart, tmp_path / "apart")
    assert (tmp_path / "shared").stat().st_size < (tmp_path / "apart").stat().st_size
    with pytest.raises(saccade.InvalidArgument, match="shares_masks True in the file, False here"):
        saccade.load_state(apart, tmp_path / "shared")


def test_a_second_generation_with_shared_masks_starts_full():
    pipeline = make_pipeline()
    saccade.enable(pipeline, threshold=-6.0, shares_masks=True)
    first = generate(pipeline)
    assert saccade.summary(pipeline).sparsity > 0
    assert torch.equal(generate(pipeline), first)
    assert torch.equal(generate(pipeline, steps=1), generate(pipeline, steps=1))

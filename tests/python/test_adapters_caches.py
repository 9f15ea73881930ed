"""Caches that skip blocks, attention or whole calls: steps are those of the timesteps anyway."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks.hooks import HookRegistry, ModelHook

import saccade
from wan_models import call, generate, latents_of, make_pipeline, make_transformer, steps_of

TIMESTEPS = (1000, 900, 800, 700, 600)


class Skipping(ModelHook):
    """Returns the last output again in the calls of these numbers, from 0."""

    def __init__(self, skipped):
        super().__init__()
        self.skipped = skipped
        self.calls = -1

    def new_forward(self, module, *args, **kwargs):
        self.calls += 1
        if self.calls not in self.skipped:
            self.last = self.fn_ref.original_forward(*args, **kwargs)
        return self.last


def skip(module, *numbers):
    HookRegistry.check_if_exists_or_initialize(module).register_hook(Skipping(numbers), "skipping")


def test_a_block_that_is_skipped_keeps_its_steps_and_its_tiles():
    transformer = make_transformer()
    saccade.enable(transformer, threshold=-6.0)
    skip(transformer.blocks[1], 1, 3)
    masks = []
    for timestep in TIMESTEPS:
        call(transformer, timestep)
        masks.append(saccade.summary(transformer).layers[1].attention.mask().words.clone())
    assert steps_of(transformer) == [(i, "cond") for i in range(5)]
    assert steps_of(transformer, 1) == [(i, "cond") for i in (0, 2, 4)]
    assert [torch.equal(masks[i], masks[i + 1]) for i in (0, 2)] == [True, True]
    assert [c.is_dense for c in saccade.summary(transformer).layers[1].calls] == [1, 0, 0]
    assert saccade.summary(transformer).layers[1].calls[-1].sparsity > 0


def test_the_first_call_of_a_block_may_come_late():
    transformer = make_transformer()
    saccade.enable(transformer, threshold=-6.0)
    for timestep in TIMESTEPS[:2]:
        call(transformer, timestep)
    hidden = torch.zeros(1, 320, 128)
    skip(transformer.blocks[1], 1)
    transformer.blocks[1]._diffusers_hook.get_hook("skipping").last = hidden
    for timestep in TIMESTEPS[:3]:  # a generation whose second step is skipped
        call(transformer, timestep)
    assert steps_of(transformer, 1) == [(0, "cond"), (2, "cond")]


@pytest.mark.parametrize("comes_first", [True, False])
def test_a_call_that_is_skipped_as_a_whole_is_a_step(comes_first):
    transformer = make_transformer()
    if comes_first:
        skip(transformer, 2)
    saccade.enable(transformer, threshold=-6.0)
    if not comes_first:
        skip(transformer, 2)
    for timestep in TIMESTEPS:
        call(transformer, timestep)
    assert steps_of(transformer) == [(i, "cond") for i in (0, 1, 3, 4)]
    call(transformer, 1000)
    assert steps_of(transformer) == [(0, "cond")]
    saccade.disable(transformer)
    assert list(transformer._diffusers_hook.hooks) == ["skipping"]


def test_first_block_cache():
    pipeline = make_pipeline()
    saccade.enable(pipeline, threshold=-6.0)
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    for _ in range(2):
        generate(pipeline, steps=4)
        both = ("cond", "uncond")
        assert steps_of(pipeline) == [(i, branch) for i in range(4) for branch in both]
        assert steps_of(pipeline, 1) == [(0, branch) for branch in both]
    pipeline.transformer.disable_cache()
    generate(pipeline, steps=4)
    assert steps_of(pipeline, 1) == steps_of(pipeline)
    assert len(steps_of(pipeline)) == 8


def test_pyramid_attention_broadcast():
    """Attention is computed at every second step: the layers see the others as they are."""
    pipeline = make_pipeline()
    saccade.enable(pipeline, threshold=-6.0)
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        spatial_attention_block_identifiers=("blocks",),
        current_timestep_callback=lambda: pipeline._current_timestep,
    )
    pipeline.transformer.enable_cache(config)
    generate(pipeline, steps=5, guidance_scale=1.0)
    for layer in range(2):
        steps = [step for step, _ in steps_of(pipeline, layer)]
        assert steps[0] == 0
        assert len(steps) < 5
        assert all(one - two > 1 for two, one in itertools.pairwise(steps[1:]))
    assert saccade.summary(pipeline).layers[0].calls[-1].sparsity > 0


def test_a_skipped_call_may_have_another_order_of_tokens():
    transformer, whole = make_transformer(), make_transformer()
    for model in (transformer, whole):
        saccade.enable(model, threshold=-6.0, token_order="space_time")
    skip(transformer, 1)
    for timestep in (1000, 900, 1000):
        found = call(transformer, timestep, latents=latents_of())
    torch.testing.assert_close(found, call(whole, 1000, latents=latents_of()))

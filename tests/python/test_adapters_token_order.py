"""saccade.enable with token_order: the model's output stays, its tiles become boxes."""

from __future__ import annotations

import pytest
import torch
from diffusers import FirstBlockCacheConfig, WanVACETransformer3DModel

import saccade
from wan_models import (
    PATHS,
    call,
    generate,
    make_pipeline,
    make_transformer,
    masks_of,
    text_of,
)

# Latent frames, rows and columns; a patch has 1 x 2 x 2 of them, and what is left over is dropped.
LATENTS_AND_ORDERS = [
    ((5, 16, 16), (2, 3, 4)),
    ((5, 16, 16), (3, 2, 100)),
    ((3, 14, 10), (1, 4, 4)),
    ((1, 18, 22), "space_time"),
    ((7, 6, 34), (4, 4, 4)),
    ((4, 17, 13), (2, 1, 1)),
    ((4, 17, 13), "space_time"),
]

# A row of attention has a relative error of at most 1e-5 (docs/numerics.md) in either order, in
# each of two layers. Everything else is the same arithmetic, token by token, whose sums over 128
# channels add 128 u = 8e-6 in each of the 7 matrix products of a layer.
RELATIVE_L2 = 2 * 2 * (1e-5 + 7 * 8e-6)


def make_mild_transformer():
    """Its logits are small, so that they do not amplify rounding: max |S| < 20."""
    transformer = make_transformer()
    for block in transformer.blocks:
        block.attn1.norm_q.weight.data /= 16
    return transformer


def outputs_of(orders, latents, **options):
    """The same call of the same model with each token order, dense."""
    results = []
    for token_order in orders:
        transformer = make_mild_transformer()
        saccade.enable(transformer, method="dense", token_order=token_order)
        results.append(call(transformer, 500, latents=latents, **options))
    return results


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert (found - expected).norm() <= RELATIVE_L2 * expected.norm()


def random_latents(shape, batch=2):
    return torch.randn(batch, 4, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("shape", "token_order"), LATENTS_AND_ORDERS)
def test_the_output_is_that_of_the_order_of_frames(shape, token_order):
    latents = random_latents(shape)
    found, expected = outputs_of([token_order, "frames"], latents)
    assert_close(found, expected)


def test_timesteps_of_tokens_go_with_their_tokens():
    transformer = make_mild_transformer()
    latents, text = random_latents((5, 16, 16)), text_of(batch=2)
    timesteps = torch.linspace(1, 1000, 320).expand(2, -1).contiguous()
    results = []
    for token_order in ("frames", (2, 3, 4)):
        saccade.enable(transformer, method="dense", token_order=token_order)
        by_position = transformer(latents, timesteps, text).sample
        saccade.disable(transformer)
        saccade.enable(transformer, method="dense", token_order=token_order)
        by_name = transformer(
            hidden_states=latents, timestep=timesteps, encoder_hidden_states=text
        ).sample
        saccade.disable(transformer)
        assert torch.equal(by_position, by_name)
        results.append(by_position)
    assert_close(*results)


def test_attention_sees_the_tokens_box_by_box():
    def queries_with(token_order):
        seen = []

        def attend(q, k, v, *, step, branch):
            seen.append(torch.cat([q, k, v]))
            return saccade.attention(q, k, v, layout="bshd")

        transformer = make_mild_transformer()
        saccade.enable(transformer, method=lambda path: attend, token_order=token_order)
        call(transformer, 500)
        return seen[0]

    order = saccade.token_order(5, 8, 8, (2, 3, 4))
    expected = queries_with("frames")[:, order]
    torch.testing.assert_close(queries_with((2, 3, 4)), expected, rtol=1e-5, atol=1e-5)


def latents_of_quadrants():
    """Each quarter of the frames has a colour of its own: its tokens are a box of 5 x 4 x 4."""
    generator = torch.Generator().manual_seed(0)
    colours = 3 * torch.randn(1, 4, 1, 2, 2, generator=generator)
    return colours.repeat_interleave(8, 3).repeat_interleave(8, 4) + 0.3 * random_latents(
        (5, 16, 16)
    )


@pytest.mark.parametrize("block_q", [64, 128])
def test_lite_skips_tiles_of_boxes(block_q):
    transformer = make_transformer()
    saccade.enable(transformer, threshold=-6.0, token_order="space_time", block_q=block_q)
    latents = latents_of_quadrants()
    sparse = [call(transformer, t, latents=latents) for t in (1000, 900, 800)]
    assert [tuple(words.shape) for words in masks_of(transformer)] == [
        (2, 2, -(-320 // block_q), 1)
    ] * 2
    summary = saccade.summary(transformer)
    assert summary.layers[0].calls[0].sparsity == 0
    assert summary.sparsity > 0.02
    assert summary.layers[0].token_order == saccade.choose_box(5, 8, 8, block_q, 64)
    saccade.disable(transformer)
    torch.testing.assert_close(
        sparse[-1], call(transformer, 800, latents=latents), rtol=0.05, atol=0.05
    )


def test_a_pipeline_draws_the_same_and_a_second_generation_again():
    pipeline = make_pipeline(boundary_ratio=0.6)
    for transformer in (pipeline.transformer, pipeline.transformer_2):
        for block in transformer.blocks:
            block.attn1.norm_q.weight.data /= 16
    untouched = generate(pipeline)
    saccade.enable(pipeline, method="dense", token_order=(2, 4, 4))
    found = generate(pipeline)
    # Steps of the sampler add up what the calls differ by, two branches with guidance 3 - 1 and 3.
    assert (found - untouched).norm() <= 3 * (2 + 3) * RELATIVE_L2 * untouched.norm()
    assert torch.equal(generate(pipeline), found)


def test_shapes_may_change_between_calls():
    transformer = make_mild_transformer()
    saccade.enable(transformer, method="dense", token_order="space_time")
    boxes = []
    for timestep, shape in ((1000, (5, 16, 16)), (900, (1, 32, 32)), (800, (5, 16, 16))):
        latents = random_latents(shape, batch=1)
        expected = outputs_of(["frames"], latents)[0]
        assert expected.shape == latents.shape
        call(transformer, timestep, latents=latents)
        boxes.append(saccade.summary(transformer).layers[0].token_order)
    assert boxes == [saccade.choose_box(5, 8, 8), saccade.choose_box(1, 16, 16), boxes[0]]


def test_a_cache_of_blocks_keeps_its_tokens_in_order():
    results, cached = [], []
    for token_order in ("frames", (2, 3, 4)):
        transformer = make_mild_transformer()
        transformer.enable_cache(FirstBlockCacheConfig(threshold=10.0))
        saccade.enable(transformer, method="dense", token_order=token_order)
        latents = random_latents((5, 16, 16), batch=1)
        results.append([call(transformer, t, latents=latents) for t in (1000, 999)])
        cached.append(len(saccade.summary(transformer).layers[1].calls))
    assert cached == [1, 1]  # the second block was skipped at the second step
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize(("is_whole", "is_enabled_first"), [(True, False), (False, True)])
def test_models_can_be_compiled(is_whole, is_enabled_first):
    torch.compiler.reset()
    transformer = make_mild_transformer()
    latents = random_latents((5, 16, 16))
    expected = call(transformer, 500, latents=latents)

    def compile_it():
        if is_whole:
            transformer.compile(backend="eager")
        else:
            transformer.compile_repeated_blocks(backend="eager")
        call(transformer, 500, latents=latents)

    if not is_enabled_first:
        compile_it()
    saccade.enable(transformer, method="dense", token_order=(2, 3, 4))
    if is_enabled_first:
        compile_it()
    assert_close(call(transformer, 400, latents=latents), expected_at(400, latents))
    saccade.disable(transformer)
    assert_close(call(transformer, 500, latents=latents), expected)


def expected_at(timestep, latents):
    return call(make_mild_transformer(), timestep, latents=latents)


def test_the_summary_names_the_order():
    transformer = make_transformer()
    saccade.enable(transformer, token_order="space_time")
    assert [x.token_order for x in saccade.summary(transformer).layers] == ["space_time"] * 2
    assert "boxes" not in str(saccade.summary(transformer))
    call(transformer, 1000)
    box = saccade.choose_box(5, 8, 8)
    summary = saccade.summary(transformer)
    assert [x.token_order for x in summary.layers] == [box, box]
    assert "tokens in boxes of {} x {} x {}".format(*box) in str(summary).splitlines()
    saccade.disable(transformer)
    saccade.enable(transformer)
    call(transformer, 1000)
    summary = saccade.summary(transformer)
    assert [x.token_order for x in summary.layers] == ["frames", "frames"]
    assert "boxes" not in str(summary)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_order": "spacetime"}, "must be 'frames', 'space_time' or a box .* 'spacetime'"),
        ({"token_order": (4, 4)}, r"a box is \(frames, rows, columns\) .* got \(4, 4\)"),
        ({"token_order": (4, 4, 0)}, "each at least 1"),
        ({"token_order": None}, "a box is .* got None"),
        (
            {"token_order": "space_time", "protected_keys": [(0, 64)]},
            "protected_keys is a range of tokens numbered frame by frame",
        ),
        ({"token_order": (4, 4, 4), "protected_queries": [(0, 64)]}, "give token_order='frames'"),
    ],
)
def test_refused_orders(options, message):
    transformer = make_transformer()
    with pytest.raises(saccade.InvalidArgument, match=message):
        saccade.enable(transformer, **options)
    saccade.enable(transformer, protected_keys=[(0, 64)], token_order="frames")


def test_other_models_are_refused():
    vace = WanVACETransformer3DModel(
        num_attention_heads=1,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=1,
        vace_layers=[0],
        vace_in_channels=4,
    )
    with pytest.raises(saccade.Unsupported, match=r"WanTransformer3DModel as it is, got WanVACE"):
        saccade.enable(vace, token_order="space_time")
    saccade.enable(vace)


@pytest.mark.parametrize("name", ["patch_embedding", "rope", "proj_out"])
def test_a_module_exchanged_after_enable_is_refused(name):
    transformer = make_transformer()
    original = getattr(transformer, name)
    saccade.enable(transformer, token_order="space_time")
    setattr(transformer, name, torch.nn.Sequential(original))
    with pytest.raises(saccade.InvalidArgument, match=f"{name} was exchanged after"):
        call(transformer, 1000)
    setattr(transformer, name, original)
    call(transformer, 1000)
    assert [c.path for c in saccade.summary(transformer).calls] == PATHS

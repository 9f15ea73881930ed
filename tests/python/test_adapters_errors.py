"""What saccade.enable refuses, and what a model refuses once it is enabled."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

import saccade
from wan_models import call, latents_of, make_pipeline, make_transformer, steps_of


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("litte",), "method must be 'lite', .* or a callable, got 'litte'"),
        (("dens",), "method must be 'dense', .* or a callable"),
        ((3,), "method must be 'lite', 'dense', 'random', .* or a callable, got 3"),
        (("lite", {"treshold": -1.0}), "'lite' has no option 'treshold'; .* are 'threshold', "),
        (("lite", {"scale": 1.0}), "no option 'scale'"),
        (("dense", {"threshold": -1.0}), "'dense' has no option 'threshold'; it has none"),
        ((lambda path: print, {"order": 1}), "a callable has no option 'order'; it has none"),
        ((lambda path: 3,), "return a callable for blocks.0.attn1, got int"),
        (("lite", {"threshold": 1.0}), "threshold is 1"),
        (("lite", {"threshold": 1.0, "dense_layers": [0, 1]}), "threshold is 1"),
        (("lite", {"dense_layers": [2]}), "has 2, but the self-attentions are 0 to 1"),
        (("lite", {"dense_layers": [-1]}), "has -1, but the self-attentions are 0 to 1"),
        (
            ("lite", {"dense_layers": ["block.1.attn1"]}),
            "'block.1.attn1', .* the 2 there are: 'blocks.1.attn1', 'blocks.0.attn1'",
        ),
    ],
)
def test_refused_methods_and_options(arguments, message):
    method, options = (*arguments, {})[:2]
    with pytest.raises(saccade.InvalidArgument, match=message):
        saccade.enable(make_transformer(), method=method, **options)


def test_refused_models():
    accepted = "need a WanTransformer3DModel, .* or a WanPipeline"
    for wrong in (torch.nn.Linear(1, 1), "wan", None):
        for function in (saccade.enable, saccade.disable, saccade.summary):
            with pytest.raises(
                saccade.InvalidArgument, match=f"{accepted}.*got {type(wrong).__name__}"
            ):
                function(wrong)
    flux = FluxTransformer2DModel(
        num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1
    )
    with pytest.raises(saccade.Unsupported, match=f"{accepted}.*got a FluxTransformer2DModel"):
        saccade.enable(flux)
    with pytest.raises(saccade.Unsupported, match="got a WanTransformer3DModel without"):
        saccade.enable(make_transformer(layers=0))
    pipeline = make_pipeline()
    pipeline.transformer = None
    with pytest.raises(saccade.InvalidArgument, match="WanPipeline without transformer"):
        saccade.enable(pipeline)
    pipeline.transformer = torch.nn.Linear(1, 1)
    with pytest.raises(saccade.InvalidArgument, match=r"got transformer\.Linear"):
        saccade.enable(pipeline)
    transformer = make_transformer()
    transformer.blocks[0].attn1.processor = object()
    with pytest.raises(saccade.Unsupported, match=r"object of .* does not go through"):
        saccade.enable(transformer)


def test_enabled_twice_and_not_at_all():
    pipeline = make_pipeline()
    for function in (saccade.disable, saccade.summary):
        with pytest.raises(saccade.InvalidArgument, match="WanPipeline is not enabled"):
            function(pipeline)
    saccade.enable(pipeline.transformer)
    for model in (pipeline, pipeline.transformer):
        with pytest.raises(saccade.InvalidArgument, match=r"enabled already; saccade\.disable"):
            saccade.enable(model, method="dense")
    assert isinstance(saccade.summary(pipeline).layers[0].attention, saccade.LiteAttention)
    saccade.disable(pipeline)
    with pytest.raises(saccade.InvalidArgument, match="not enabled"):
        saccade.disable(pipeline.transformer)


@pytest.mark.parametrize("earlier", [[], [1000]])
def test_two_calls_without_context_are_refused(earlier):
    transformer = make_transformer()
    saccade.enable(transformer)
    for timestep in earlier:
        call(transformer, timestep, None)
    call(transformer, 900, None)
    with pytest.raises(saccade.InvalidArgument, match=r'cache_context\("cond"\)'):
        call(transformer, 900, None)
    call(transformer, 900, "uncond")
    assert [step for step, _ in steps_of(transformer)] == [0] * len(earlier) + [len(earlier)] * 2


def test_a_branch_called_twice_at_a_later_step_is_refused():
    transformer = make_transformer()
    saccade.enable(transformer)
    call(transformer, 1000)
    call(transformer, 900)
    with pytest.raises(
        saccade.InvalidArgument, match=r"'cond' was called twice at timestep 900 \(step 1\)"
    ):
        call(transformer, 900)
    with pytest.raises(saccade.InvalidArgument, match="timestep is NaN"):
        call(transformer, math.nan)
    call(transformer, 800)
    assert steps_of(transformer) == [(0, "cond"), (1, "cond"), (2, "cond")]


def test_calls_that_attention_cannot_serve():
    transformer = make_transformer()
    saccade.enable(transformer)
    processor = transformer.blocks[0].attn1.processor
    q = torch.zeros(1, 8, 2, 64)
    attend = _AttentionBackendRegistry._backends[processor._attention_backend]
    for name, value in {
        "attn_mask": torch.ones(8, 8, dtype=torch.bool),
        "dropout_p": 0.5,
        "is_causal": True,
        "scale": 1.0,
        "_parallel_config": object(),
    }.items():
        shown = name.strip("_").replace("_", ".")
        with pytest.raises(saccade.Unsupported, match=f"blocks.0.attn1 was called with .*{shown}"):
            attend(q, q, q, **{name: value})
    with pytest.raises(saccade.InvalidArgument, match=r"blocks\.0\.attn1 was called outside"):
        attend(q, q, q)
    with torch.enable_grad(), pytest.raises(saccade.Unsupported, match="no_grad"):
        call(transformer, 1000, latents=latents_of().requires_grad_())


def test_an_attention_that_returns_another_shape():
    transformer = make_transformer()
    saccade.enable(transformer, method=lambda path: lambda q, k, v, **_: q.transpose(1, 2))
    with pytest.raises(saccade.InvalidArgument, match=r"blocks\.0\.attn1 must return .*320, 2, 64"):
        call(transformer, 1000)


def test_changes_after_enable_are_refused():
    transformer = make_transformer()
    saccade.enable(transformer)
    duplicate = copy.deepcopy(transformer)
    with pytest.raises(saccade.Unsupported, match="copy of one that saccade is enabled for"):
        call(duplicate, 1000)
    transformer.blocks[1].attn1.set_attention_backend("native")
    with pytest.raises(saccade.InvalidArgument, match=r"blocks\.1\.attn1 was changed after"):
        call(transformer, 1000)
    transformer.blocks[1].attn1.set_processor(WanAttnProcessor())
    with pytest.raises(saccade.InvalidArgument, match=r"blocks\.1\.attn1 was changed after"):
        call(transformer, 1000)
    saccade.disable(transformer)
    call(transformer, 1000)


def test_diffusers_is_missing(monkeypatch):
    transformer = make_transformer()
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(saccade.Unsupported, match="pip install diffusers"):
        saccade.enable(transformer)


@pytest.mark.parametrize("name", ["_backends", "_constraints", "_supported_arg_names", "register"])
def test_diffusers_is_another(monkeypatch, name):
    transformer = make_transformer()
    monkeypatch.delattr(_AttentionBackendRegistry, name)
    with pytest.raises(saccade.Unsupported, match=rf"diffusers \d+\.\d+.*{name}"):
        saccade.enable(transformer)


def test_diffusers_has_another_shape(monkeypatch):
    transformer = make_transformer()
    monkeypatch.setattr(_AttentionBackendRegistry, "_backends", [])
    with pytest.raises(saccade.Unsupported, match=r"diffusers \d+\.\d+.*not kept by name"):
        saccade.enable(transformer)


def test_import_does_not_load_diffusers():
    code = "import sys, saccade; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""saccade.disable: nothing of saccade.enable is left behind."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

import saccade
from wan_models import PATHS, call, generate, latents_of, make_pipeline, make_transformer, text_of


def tables():
    return [
        set(getattr(_AttentionBackendRegistry, table))
        for table in ("_backends", "_constraints", "_supported_arg_names")
    ]


def backends():
    """The tables without what belongs to dropped models, which the next saccade.enable removes."""
    gc.collect()
    another = make_transformer()
    saccade.enable(another)
    saccade.disable(another)
    return tables()


def traces(model):
    """Everything that enable could leave behind."""
    modules = dict(model.named_modules())
    return (
        {path: set(vars(module)) for path, module in modules.items()},
        {path: id(module.processor) for path, module in modules.items() if "attn" in path[-5:]},
        {path: list(module._forward_hooks.values()) for path, module in modules.items()},
        {path: list(module._forward_pre_hooks.values()) for path, module in modules.items()},
        backends(),
        list(AttentionBackendName.__members__),
    )


@pytest.mark.parametrize("token_order", ["frames", "space_time"])
def test_disable_restores_everything(token_order):
    pipeline = make_pipeline(boundary_ratio=0.6)
    transformers = pipeline.transformer, pipeline.transformer_2
    before = [traces(model) for model in transformers]
    weights = {name: w.clone() for name, w in pipeline.transformer.state_dict().items()}
    outputs = [call(copy.deepcopy(model), 500) for model in transformers]

    saccade.enable(pipeline, threshold=-6.0, token_order=token_order)
    enabled = pipeline.transformer.state_dict()
    assert enabled.keys() == weights.keys()
    assert len(backends()[0] - before[0][4][0]) == 4
    generate(pipeline)
    saccade.disable(pipeline)

    assert [traces(model) for model in transformers] == before
    after = pipeline.transformer.state_dict()
    assert all(torch.equal(after[name], w) for name, w in weights.items())
    for model, output in zip(transformers, outputs, strict=True):
        assert torch.equal(call(copy.deepcopy(model), 500), output)
    saccade.enable(pipeline)
    saccade.disable(pipeline)


def test_disable_leaves_the_hooks_of_others():
    class Doubling(ModelHook):
        def post_forward(self, module, output):
            return (2 * output[0],)

    transformer = make_transformer()
    plain = transformer(latents_of(), torch.tensor([500.0]), text_of(), return_dict=False)[0]
    registry = HookRegistry.check_if_exists_or_initialize(transformer)
    registry.register_hook(Doubling(), "before")
    before = traces(transformer)
    saccade.enable(transformer, method="dense")
    registry.register_hook(Doubling(), "after")
    saccade.disable(transformer)
    assert list(registry.hooks) == ["before", "after"]
    out = transformer(latents_of(), torch.tensor([500.0]), text_of(), return_dict=False)[0]
    assert torch.equal(out, 4 * plain)
    registry.remove_hook("after")
    assert traces(transformer) == before


def test_one_transformer_for_both_stages_is_enabled_once():
    pipeline = make_pipeline(boundary_ratio=0.6)
    pipeline.transformer_2 = pipeline.transformer
    before = traces(pipeline.transformer)
    saccade.enable(pipeline)
    paths = [layer.path for layer in saccade.summary(pipeline).layers]
    assert paths == [f"transformer.{path}" for path in PATHS]
    saccade.disable(pipeline)
    assert traces(pipeline.transformer) == before


def test_a_dropped_model_leaves_no_backend_for_long():
    before = backends()
    transformer = make_transformer()
    saccade.enable(transformer)
    call(transformer, 1000)
    part = transformer.blocks[0].attn1
    enabled = tables()
    assert enabled != before
    del transformer
    gc.collect()
    assert tables() == enabled  # compiled code watches them: see redirection.py
    with pytest.raises(saccade.Unsupported, match="a model that is gone"):
        part(torch.zeros(1, 64, 128))
    assert backends() == before


def test_a_refused_enable_changes_nothing():
    pipeline = make_pipeline(boundary_ratio=0.6)
    pipeline.transformer_2.blocks[1].attn1.processor = object()
    before = [traces(model) for model in (pipeline.transformer, pipeline.transformer_2)]

    def fail_late(path):
        return None if path == PATHS[1] else saccade.LiteAttention(layout="bshd")

    for refused in (
        lambda: saccade.enable(pipeline),
        lambda: saccade.enable(pipeline.transformer, threshold=1.0),
        lambda: saccade.enable(pipeline.transformer, dense_layers=[2]),
        lambda: saccade.enable(pipeline.transformer, method=fail_late),
        lambda: saccade.enable(pipeline.transformer, token_order="rows"),
    ):
        with pytest.raises(saccade.Error):
            refused()
        after = [traces(model) for model in (pipeline.transformer, pipeline.transformer_2)]
        assert after == before

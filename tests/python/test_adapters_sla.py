"""saccade.enable with method "sla": layers that learn, inside diffusers' Wan."""

import warnings

import peft
import pytest
import torch
from safetensors.torch import save_file

import saccade
from test_adapters_disable import traces
from wan_models import PATHS, call, generate, make_pipeline, make_transformer

OPTIONS = {"critical": 2, "negligible": 1, "min_length": 0}  # of 5 key tiles
KEYS = {f"{path}.sla.proj_l.{part}" for path in PATHS for part in ("weight", "bias")}


def make_sla(seed=0, **options):
    transformer = make_transformer(seed).requires_grad_(True)
    saccade.enable(transformer, "sla", **OPTIONS | options)
    return transformer


def give_weights(transformer, seed=5):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if ".sla." in name:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return transformer


def gradients(transformer, timestep=500.0, **arguments):
    transformer.zero_grad()
    call(transformer, timestep, branch=None, **arguments).square().mean().backward()
    return {
        name: x.grad.clone() for name, x in transformer.named_parameters() if x.grad is not None
    }


def test_the_layers_are_parameters_of_the_model():
    transformer = make_transformer()
    before = set(transformer.state_dict())
    saccade.enable(transformer, "sla", **OPTIONS)
    assert set(transformer.state_dict()) - before == KEYS
    names = {name for name, x in transformer.named_parameters() if x.requires_grad}
    assert names == KEYS  # the model itself is frozen
    transformer.to(torch.bfloat16)
    weight = transformer.blocks[0].attn1.sla.proj_l.weight
    assert weight.dtype == torch.bfloat16
    assert weight is transformer.get_parameter("blocks.0.attn1.sla.proj_l.weight")


@pytest.mark.parametrize("token_order", ["frames", (4, 4, 4)])
def test_the_model_is_that_of_a_factory_with_such_modules(token_order):
    transformer = give_weights(make_sla(token_order=token_order))
    modules = {path: transformer.get_submodule(f"{path}.sla") for path in PATHS}
    expected_gradients = gradients(transformer)
    assert len(expected_gradients) == len(dict(transformer.named_parameters()))
    expected = outputs(transformer)
    calls = saccade.summary(transformer).calls
    assert [(c.path, c.step, c.branch) for c in calls] == [(p, 0, "cond") for p in PATHS]
    assert all(c.sparsity == pytest.approx(0.6) and c.seconds > 0 for c in calls)
    saccade.disable(transformer)

    def factory(path):
        def attend(q, k, v, *, step, branch):
            return modules[path](q, k, v)

        return attend

    saccade.enable(transformer, factory, token_order=token_order)
    found = gradients(transformer)
    assert all(torch.equal(gradient, expected_gradients[name]) for name, gradient in found.items())
    assert set(expected_gradients) - set(found) == KEYS
    saccade.disable(transformer)
    saccade.enable(transformer, factory, token_order=token_order)
    assert torch.equal(outputs(transformer), expected)


def test_all_tiles_critical_is_the_untouched_model():
    pipeline = make_pipeline()
    untouched = generate(pipeline)
    saccade.enable(pipeline, "sla", critical=1.0, min_length=0, token_order="space_time")
    torch.testing.assert_close(generate(pipeline), untouched, rtol=1e-3, atol=1e-3)
    assert saccade.summary(pipeline).sparsity == 0


def test_training_needs_no_trajectory():
    transformer = make_sla()
    for timestep in (500, 500, 900, 100, 100):
        gradients(transformer, timestep)
        calls = saccade.summary(transformer).calls
        assert [(c.path, c.step, c.branch) for c in calls] == [(p, 0, "training") for p in PATHS]
    with torch.no_grad():  # losses of several samples at one timestep
        for timestep in (500, 500, 500, 700):
            call(transformer, timestep, branch=None)
            assert len(saccade.summary(transformer).calls) == 2
        call(transformer, 600, branch=None)
    assert [c.step for c in saccade.summary(transformer).calls] == [0, 1, 0, 1]


@pytest.mark.parametrize("options", [{}, {"refresh": 3}, {"dense_layers": [0]}])
def test_gradient_checkpointing_changes_no_bit(options):
    transformer = give_weights(make_sla(**options))
    plain = gradients(transformer)
    assert len(plain) == len(dict(transformer.named_parameters()))
    transformer.train()
    transformer.enable_gradient_checkpointing()
    again = gradients(transformer)
    assert all(torch.equal(again[name], g) for name, g in plain.items())


def test_autocast_trains_float32_weights():
    transformer = give_weights(make_sla(dense_layers=[1]))
    plain = gradients(transformer)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(transformer)
    for name, gradient in found.items():
        assert gradient.dtype == torch.float32
        difference = (gradient - plain[name]).norm() / plain[name].norm()
        assert difference < 0.1, name


def test_a_function_of_sigma_knows_it_in_training_too():
    seen = []

    def critical(sigma):
        seen.append(sigma)
        return 3 if sigma > 0.6 else 1

    transformer = make_sla(critical=critical)
    gradients(transformer, 700)
    assert saccade.summary(transformer).sparsity == pytest.approx(0.4)
    with torch.no_grad():
        call(transformer, 500)
    assert saccade.summary(transformer).sparsity == pytest.approx(0.8)
    assert seen == [0.7, 0.7, 0.5, 0.5]
    transformer.train()
    transformer.enable_gradient_checkpointing()
    with pytest.raises(saccade.InvalidArgument, match="recomputed"):
        gradients(transformer, 700)


def test_classes_are_refreshed_by_step_and_branch():
    pipeline = make_pipeline()
    saccade.enable(pipeline, "sla", refresh=2, **OPTIONS)
    generate(pipeline, steps=3)
    states = saccade.summary(pipeline).layers[0].attention.states
    assert {b: (s.chosen_at, s.used_at) for b, s in states.items()} == {
        "cond": (2, 2),
        "uncond": (2, 2),
    }


def test_layers_may_differ():
    transformer = make_sla(
        layers={"blocks.*": {"critical": 3}, "blocks.1.*": {"critical": 1, "linear": "all"}}
    )
    gradients(transformer)
    first, second = saccade.summary(transformer).layers
    assert first.calls[0].sparsity == pytest.approx(0.4)
    assert second.calls[0].sparsity == pytest.approx(0.8)
    assert (first.attention.linear, second.attention.linear) == ("marginal", "all")


@pytest.mark.parametrize("dense_layers", [1, [1], "blocks.1.*", ["blocks.1.attn1"]])
def test_dense_layers_have_no_weights(dense_layers):
    transformer = make_sla(dense_layers=dense_layers)
    gradients(transformer)
    summary = saccade.summary(transformer)
    assert [c.is_dense for c in summary.calls] == [False, True]
    assert {n for n in transformer.state_dict() if ".sla." in n} == {k for k in KEYS if "s.0." in k}


def test_short_attention_is_announced_once_and_counted():
    transformer = make_sla(min_length=321)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        with torch.no_grad():
            call(transformer, 900)
            call(transformer, 800)
    assert [str(w.message)[:34] for w in seen] == ["attention over 320 tokens is dense"]
    text = str(saccade.summary(transformer))
    assert "4 calls of SLA were dense: fewer tokens than min_length" in text


def test_dense_is_the_default_where_it_is_faster():
    transformer = make_transformer()
    saccade.enable(transformer, "sla")
    with torch.no_grad(), pytest.warns(UserWarning, match="320 tokens .* min_length=512"):
        call(transformer, 900)
    assert all(c.is_dense for c in saccade.summary(transformer).calls)


def test_disable_removes_the_layers():
    pipeline = make_pipeline(boundary_ratio=0.6)
    transformers = pipeline.transformer, pipeline.transformer_2
    before = [(traces(model), set(model.state_dict())) for model in transformers]
    saccade.enable(pipeline, "sla", **OPTIONS)
    generate(pipeline)
    saccade.disable(pipeline)
    assert [(traces(model), set(model.state_dict())) for model in transformers] == before


def test_lora_trains_beside_the_projections():
    transformer = make_sla()
    transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    for name, parameter in transformer.named_parameters():
        if ".sla." in name:
            parameter.requires_grad_(True)
    found = gradients(transformer)
    assert {name for name in found if ".sla." in name} == KEYS
    assert all("lora" in name or ".sla." in name for name in found)
    assert any(g.norm() > 0 for name, g in found.items() if "lora_B" in name)


def test_a_compiled_transformer_trains():
    transformer = give_weights(make_sla())
    plain = gradients(transformer)
    transformer.compile(backend="aot_eager")
    for name, gradient in gradients(transformer).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critical": 2.0}, "ratio of tiles is 2"),
        ({"critical": [0.1] * 3}, "one share or 2"),
        ({"threshold": -1.0}, "no option 'threshold'"),
        ({"layers": {"attn1": {"critical": 1}}}, "'attn1', which matches no self-attention"),
        ({"layers": {"blocks.*": {"layout": "bhsd"}}}, "option 'layout'"),
        ({"dense_layers": 2}, "self-attentions are 0 to 1"),
        ({"dense_layers": "*"}, "method='dense'"),
        ({"token_order": "space_time", "protected_keys": [(0, 4)]}, "token_order"),
    ],
)
def test_bad_options_change_nothing(options, message):
    transformer = make_transformer()
    before = traces(transformer), set(transformer.state_dict())
    with pytest.raises(saccade.InvalidArgument, match=message):
        saccade.enable(transformer, "sla", **options)
    assert (traces(transformer), set(transformer.state_dict())) == before


# Files


def outputs(transformer):
    with torch.no_grad():
        return call(transformer, 500)


@pytest.mark.parametrize("token_order", ["frames", (1, 4, 4)])
@pytest.mark.parametrize("feature_map", ["softmax", "hedgehog"])
def test_a_file_brings_weights_and_options(tmp_path, feature_map, token_order):
    options = {"feature_map": feature_map, "dense_layers": [1], "block_q": 128}
    trained = give_weights(make_sla(token_order=token_order, **options))
    saccade.save_sla(trained, tmp_path / "sla.safetensors")
    loaded = make_transformer()
    saccade.load_sla(loaded, tmp_path / "sla.safetensors")
    assert torch.equal(outputs(loaded), outputs(trained))
    names = [layer.attention for layer in saccade.summary(loaded).layers]
    assert type(names[1]).__name__ == "DenseAttention"
    again = make_sla(token_order=token_order, **options | {"critical": 0.9})  # shares may differ
    saccade.load_sla(again, tmp_path / "sla.safetensors")
    assert torch.equal(
        again.blocks[0].attn1.sla.proj_l.weight, trained.blocks[0].attn1.sla.proj_l.weight
    )


def test_a_file_of_a_transformer_is_for_its_pipeline_too(tmp_path):
    pipeline = make_pipeline()
    trained = give_weights(make_sla())
    saccade.save_sla(trained, tmp_path / "one.safetensors")
    saccade.load_sla(pipeline, tmp_path / "one.safetensors")
    assert torch.equal(outputs(pipeline.transformer), outputs(trained))
    saccade.save_sla(pipeline, tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (
        tmp_path / "two.safetensors"
    ).read_bytes()


def test_a_whole_fine_tuned_transformer(tmp_path):
    trained = give_weights(make_sla(seed=3))
    expected = outputs(trained)
    trained.save_pretrained(tmp_path)
    loaded = type(trained).from_pretrained(tmp_path)
    saccade.enable(loaded, "sla", **OPTIONS)
    saccade.load_sla(loaded, tmp_path / "diffusion_pytorch_model.safetensors")
    assert torch.equal(outputs(loaded), expected)


@pytest.mark.parametrize("layout", ["turbodiffusion", "diffusers", "sglang", "fastvideo"])
def test_published_layouts_there_and_back(layout, tmp_path):
    trained = give_weights(make_sla())
    own = {name: x for name, x in trained.state_dict().items() if ".sla." in name}
    public = saccade.convert_sla_keys(trained.state_dict(), layout)
    places = {
        "turbodiffusion": "self_attn.attn_op.local_attn",
        "diffusers": "attn1.attn_op.local_attn",
        "sglang": "attn1.local_attn",
        "fastvideo": "attn1.attn_impl",
    }
    assert set(public) == {name.replace("attn1.sla", places[layout]) for name in own}
    back = saccade.convert_sla_keys(public)
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], x) for name, x in own.items())
    whole = {f"net.{name}": x for name, x in public.items()} | {
        "blocks.0.ffn.0.bias": torch.ones(1)
    }
    save_file(whole, tmp_path / "public.safetensors")
    for source in (whole, tmp_path / "public.safetensors"):
        loaded = make_sla()
        saccade.load_sla(loaded, source)
        assert torch.equal(outputs(loaded), outputs(trained))
    with pytest.raises(saccade.InvalidArgument, match="method='sla' first"):
        saccade.load_sla(make_transformer(), whole)


def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path):
    trained = give_weights(make_sla())
    path = tmp_path / "sla.safetensors"
    saccade.save_sla(trained, path)
    own = saccade.convert_sla_keys(trained.state_dict())
    other = make_sla()
    before = {name: x.clone() for name, x in other.state_dict().items()}
    first = "blocks.0.attn1.sla.proj_l.weight"
    for source, message in (
        ({k: x for k, x in own.items() if k != first}, f"missing {first}; unexpected nothing"),
        (own | {"blocks.7.attn1.sla.proj_l.bias": torch.zeros(64)}, r"unexpected blocks\.7"),
        (own | {first: torch.zeros(32, 32)}, rf"{first} \[32, 32\] in the file, \[64, 64\] here"),
        ({"blocks.0.attn1.proj_l.weight": torch.zeros(64, 64)}, "no known layout"),
        ({"blocks.0.ffn.weight": torch.zeros(1)}, "none of 1 keys"),
        (own | {"blocks.0.attn1.local_attn.proj_l.weight": own[first]}, "two keys"),
    ):
        with pytest.raises(saccade.InvalidArgument, match=message):
            saccade.load_sla(other, source)
    assert all(torch.equal(x, before[name]) for name, x in other.state_dict().items())
    for options, message in (
        ({"linear": "all"}, "'marginal' in the file, 'all' here"),
        ({"block_k": 128}, "block_k .* 64 in the file, 128 here"),
        ({"token_order": "space_time"}, "'frames' in the file, 'space_time' here"),
        ({"dense_layers": [0]}, r"unexpected blocks\.0"),
    ):
        with pytest.raises(saccade.InvalidArgument, match=message):
            saccade.load_sla(make_sla(**options), path)
    untouched = make_transformer(layers=1)
    keys = set(untouched.state_dict())
    with pytest.raises(saccade.InvalidArgument, match=r"unexpected blocks\.1"):
        saccade.load_sla(untouched, path)
    assert set(untouched.state_dict()) == keys
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(saccade.FileError, match="no safetensors file"):
        saccade.load_sla(other, path)
    with pytest.raises(saccade.FileError, match="cannot read"):
        saccade.load_sla(other, tmp_path / "none.safetensors")
    saccade.disable(other)
    saccade.enable(other)
    with pytest.raises(saccade.InvalidArgument, match="not with method 'sla'"):
        saccade.save_sla(other, path)

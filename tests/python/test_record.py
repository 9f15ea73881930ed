"""Traces: they hold what attention was called with, appear whole or not at all, and replay."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import saccade
from saccade import InvalidArgument
from wan_models import PATHS, call, generate, make_pipeline, make_transformer

KEY = "saccade.trace"
DEMO_TRACE = Path(__file__).parents[1] / "data" / "demo.trace"


def read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()[KEY])
        return facts, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def calls_of(facts: dict) -> list[tuple[int, str, str]]:
    return [(c["step"], c["branch"], c["layer"]) for c in facts["calls"]]


def captured(model, run) -> dict[tuple[int, str, str], tuple[Tensor, ...]]:
    """What the attention of an enabled model gets while ``run()``."""
    calls = {}

    def attention_of(path):
        def attend(q, k, v, *, step, branch):
            calls[step, branch, path] = tuple(t.transpose(1, 2).clone() for t in (q, k, v))
            return saccade.attention(q, k, v, layout="bshd")

        return attend

    saccade.enable(model, attention_of)
    run()
    saccade.disable(model)
    return calls


def test_it_holds_what_attention_was_called_with(tmp_path: Path) -> None:
    pipeline, path = make_pipeline(), tmp_path / "x.trace"
    expected = captured(pipeline, lambda: generate(pipeline))
    with saccade.record(pipeline, path) as recorder:
        generate(pipeline)
        assert recorder.calls == 3 * 2 * 2
        assert list(tmp_path.iterdir()) == []
    facts, tensors = read(path)
    assert set(calls_of(facts)) == expected.keys()
    assert len(tensors) == 3 * len(expected)
    for (step, branch, layer), parts in expected.items():
        for name, part in zip("qkv", parts, strict=True):
            assert torch.equal(tensors[f"{step}/{branch}/{layer}/{name}"], part)
    assert facts["model"].startswith("WanTransformer3DModel ")
    assert facts["num_steps"] == 3
    assert facts["saccade_version"] == saccade.__version__
    assert facts["video"] == {"frames": 5, "height": 8, "width": 8, "prefix": 0, "suffix": 0}
    assert facts["token_order"] == "frames"
    sigmas = [c["sigma"] for c in facts["calls"]]
    assert sigmas == sorted(sigmas, reverse=True)
    assert sigmas[0] == pytest.approx(1.0)


def test_the_model_is_as_it_was(tmp_path: Path) -> None:
    transformer = make_transformer()
    before, attributes = call(transformer, 900), set(vars(transformer))
    with saccade.record(transformer, tmp_path / "x.trace"):
        assert torch.allclose(call(transformer, 900), before, atol=1e-4)
    assert torch.equal(call(transformer, 900), before)
    assert set(vars(transformer)) == attributes


def test_layers_steps_and_branches_can_be_chosen(tmp_path: Path) -> None:
    pipeline, path = make_pipeline(), tmp_path / "x.trace"
    with saccade.record(
        pipeline, path, layers="*.1.attn1", steps=range(1, 99, 2), branches={"uncond"}
    ):
        generate(pipeline, steps=4)
    facts, tensors = read(path)
    layer = "transformer.blocks.1.attn1"
    assert calls_of(facts) == [(1, "uncond", layer), (3, "uncond", layer)]
    assert tensors.keys() == {f"{step}/uncond/{layer}/{x}" for step in (1, 3) for x in "qkv"}
    assert facts["num_steps"] == 4


def test_calls_of_two_transformers_are_in_the_order_of_steps(tmp_path: Path) -> None:
    pipeline, path = make_pipeline(boundary_ratio=0.5), tmp_path / "x.trace"
    with saccade.record(pipeline, path, layers="*.0.attn1", branches=("cond",)):
        generate(pipeline, steps=4)
    facts, _ = read(path)
    steps = [step for step, _, _ in calls_of(facts)]
    assert steps == sorted(steps)
    assert {layer.split(".")[0] for _, _, layer in calls_of(facts)} == {
        "transformer",
        "transformer_2",
    }
    assert inspect(path).returncode == 0


def test_heads_can_be_chosen(tmp_path: Path) -> None:
    transformer = make_transformer()
    parts = captured(transformer, lambda: call(transformer, 900))[0, "cond", PATHS[0]]
    with saccade.record(transformer, tmp_path / "x.trace", heads=[1]):
        call(transformer, 900)
    _, tensors = read(tmp_path / "x.trace")
    for name, part in zip("qkv", parts, strict=True):
        assert torch.equal(tensors[f"0/cond/{PATHS[0]}/{name}"], part[:, 1:])


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_the_dtype_can_be_chosen(tmp_path: Path, dtype: str) -> None:
    torch_dtype = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}[dtype]
    transformer = make_transformer()
    parts = captured(transformer, lambda: call(transformer, 900))[0, "cond", PATHS[1]]
    with saccade.record(transformer, tmp_path / "x.trace", dtype=dtype):
        call(transformer, 900)
    _, tensors = read(tmp_path / "x.trace")
    assert torch.equal(tensors[f"0/cond/{PATHS[1]}/k"], parts[1].to(torch_dtype))


def test_elements_beyond_f16_are_refused(tmp_path: Path) -> None:
    transformer = make_transformer()
    transformer.blocks[0].attn1.to_v.bias.data += 1e6
    with (
        pytest.raises(InvalidArgument, match=r"65504.*bf16"),
        saccade.record(transformer, tmp_path / "x.trace", dtype="f16"),
    ):
        call(transformer, 900)
    assert list(tmp_path.iterdir()) == []


def test_token_orders_are_recorded(tmp_path: Path) -> None:
    transformer = make_transformer()
    with saccade.record(transformer, tmp_path / "x.trace", token_order=(1, 8, 8)):
        call(transformer, 900)
    assert read(tmp_path / "x.trace")[0]["token_order"] == "1x8x8"


def test_an_error_leaves_the_old_file_and_the_model(tmp_path: Path) -> None:
    transformer, path = make_transformer(), tmp_path / "x.trace"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with saccade.record(transformer, path):
            call(transformer, 900)
            raise KeyError

    with pytest.raises(KeyError):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    with saccade.record(transformer, path):
        call(transformer, 900)
    assert len(read(path)[1]) == 6


def test_it_can_be_closed_without_a_block(tmp_path: Path) -> None:
    transformer = make_transformer()
    recorder = saccade.record(transformer, tmp_path / "x.trace")
    call(transformer, 900)
    recorder.close()
    written = (tmp_path / "x.trace").read_bytes()
    call(transformer, 800)
    recorder.close()
    assert (tmp_path / "x.trace").read_bytes() == written


def test_a_second_generation_is_refused(tmp_path: Path) -> None:
    transformer = make_transformer()
    recorder = saccade.record(transformer, tmp_path / "x.trace")
    call(transformer, 900)
    call(transformer, 800)
    with pytest.raises(InvalidArgument, match=r"second generation.*x\.trace"):
        call(transformer, 900)
    recorder.close()
    assert read(tmp_path / "x.trace")[0]["num_steps"] == 2


def test_nothing_to_record_is_an_error(tmp_path: Path) -> None:
    transformer = make_transformer()
    with (
        pytest.raises(InvalidArgument, match="no call was recorded"),
        saccade.record(transformer, tmp_path / "x.trace", steps=[7]),
    ):
        call(transformer, 900)
    saccade.enable(transformer)  # it was given back
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": "blocks.7.attn1"}, ["layers[0]", "blocks.7.attn1", "nearest", PATHS[0]]),
        ({"layers": ("*", "x")}, ["layers[1]", "'x'"]),
        ({"dtype": "f64"}, ["'f16', 'bf16', 'f32' or None", "'f64'"]),
        ({"token_order": "spiral"}, ["spiral"]),
    ],
)
def test_bad_options_change_nothing(tmp_path: Path, options: dict, words: list[str]) -> None:
    transformer = make_transformer()
    with pytest.raises(InvalidArgument) as error:
        saccade.record(transformer, tmp_path / "x.trace", **options)
    for word in words:
        assert word in str(error.value)
    assert "dense_layers" not in str(error.value)
    saccade.enable(transformer)
    assert list(tmp_path.iterdir()) == []


def test_bad_heads_are_refused_at_the_first_call(tmp_path: Path) -> None:
    transformer = make_transformer()
    with (
        pytest.raises(InvalidArgument, match="heads has 2, but they are 0 to 1"),
        saccade.record(transformer, tmp_path / "x.trace", heads=[0, 2]),
    ):
        call(transformer, 900)


def test_folders_are_refused_before_the_generation(tmp_path: Path) -> None:
    transformer = make_transformer()
    with pytest.raises(OSError, match="is a folder"):
        saccade.record(transformer, tmp_path)
    with pytest.raises(FileNotFoundError):
        saccade.record(transformer, tmp_path / "missing" / "x.trace")
    saccade.enable(transformer)
    with pytest.raises(InvalidArgument, match="enabled already"):
        saccade.record(transformer, tmp_path / "x.trace")


def test_killing_the_process_leaves_nothing(tmp_path: Path) -> None:
    code = (
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import saccade\n"
        "from wan_models import call, make_transformer\n"
        "transformer = make_transformer()\n"
        f"saccade.record(transformer, {str(tmp_path / 'x.trace')!r})\n"
        "call(transformer, 900)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert list(tmp_path.iterdir()) == []


def run_tool(*arguments: object) -> subprocess.CompletedProcess:
    command = [Path(sys.executable).with_name("saccade"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def inspect(path: Path) -> subprocess.CompletedProcess:
    return run_tool("inspect", path)


RULES = {
    "paper": ({"threshold": -3.0}, ["--threshold", -3]),
    "alternating": (
        {"threshold": -1.0, "order": "alternating"},
        ["--threshold", -1, "--order", "alternating"],
    ),
    "lse": (
        {"threshold": -8.0, "reference": "lse", "reprobe_period": 2},
        ["--threshold", -8, "--reference", "lse", "--reprobe-period", 2],
    ),
    "budget": (
        {"threshold": -4.0, "reference": "lse", "mass_budget": 0.5},
        ["--threshold", -4, "--reference", "lse", "--mass-budget", 0.5],
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_replay_computes_what_lite_attention_does(tmp_path: Path, rule: str) -> None:
    options, flags = RULES[rule]
    facts, tensors = read(DEMO_TRACE)
    layers = dict.fromkeys(c["layer"] for c in facts["calls"])
    lite = {
        layer: saccade.LiteAttention(block_q=64, block_k=64, measures_mass=True, **options)
        for layer in layers
    }
    run = run_tool(
        *("replay", DEMO_TRACE, "--block-q", 64, "--block-k", 64, *flags),
        *("--json", tmp_path / "x.json"),
    )
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "x.json").read_text())
    assert len(report["calls"]) == len(facts["calls"])
    for found in report["calls"]:
        step, branch, layer = found["step"], found["branch"], found["layer"]
        q, k, v = (tensors[f"{step}/{branch}/{layer}/{x}"] for x in "qkv")
        out = lite[layer](q, k, v, step=step, branch=branch).double()
        dense = saccade.attention(q, k, v).double()
        statistics = lite[layer].statistics[-1]
        assert found["active_tiles"] == int(statistics.active.sum())
        assert found["sparsity"] == pytest.approx(statistics.sparsity)
        error = out - dense
        expected = {
            "relative_l1": error.abs().sum() / dense.abs().sum(),
            "rmse": error.square().mean().sqrt(),
            "cosine": (out * dense).sum() / (out.norm() * dense.norm()),
            "kept_mass": statistics.kept_mass.double().mean(),
        }
        for name, value in expected.items():
            assert found[name] == pytest.approx(float(value), rel=1e-5, abs=1e-12), name


def test_replay_of_the_demo_model_is_sensible(tmp_path: Path) -> None:
    def total(*flags: object) -> dict:
        run = run_tool(
            *("replay", DEMO_TRACE, "--block-q", 64, "--block-k", 64, *flags),
            *("--json", tmp_path / "x.json"),
        )
        assert run.returncode == 0, run.stderr
        return json.loads((tmp_path / "x.json").read_text())["total"]

    strict, loose = total("--threshold", -1), total("--threshold", -0.25)
    assert 0.05 < strict["sparsity"] < loose["sparsity"] < 0.8
    assert 0 < strict["relative_l1"] < loose["relative_l1"] < 0.5
    assert 0.5 < loose["kept_mass"] < strict["kept_mass"] < 1
    dense = total("--threshold", "-inf")
    assert dense["sparsity"] == 0
    assert dense["relative_l1"] == 0
    blind = total("--method", "random", "--sparsity", loose["sparsity"], "--dense-first-steps", 0)
    assert blind["relative_l1"] > loose["relative_l1"]

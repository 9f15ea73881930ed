"""Saved states: generations that go on as if nothing had happened, and files that are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

import saccade
from saccade import lite_state
from wan_models import call, latents_of, make_transformer

RULES = {
    "paper": {},
    "everything": {
        "reference": "lse",
        "order": "alternating",
        "mass_budget": 0.5,
        "reprobe_period": 3,
    },
    "strongest": {"order": "strongest", "reprobe_period": 3, "skips_values": True},
}


def drifting(step: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(1, 2, 5, 64, generator=generator).repeat_interleave(60, dim=2)
    q, k, v = (torch.randn(1, 2, 300, 64, generator=generator) for _ in range(3))
    return centres + q + 0.02 * step, centres + k, v


def run(lite: saccade.LiteAttention, steps: range) -> list[Tensor]:
    return [
        lite(*drifting(step, seed), step=step, branch=branch)
        for step in steps
        for seed, branch in enumerate(("cond", "uncond"))
    ]


def saved(path: Path, rule: str = "paper", steps: int = 2) -> saccade.LiteAttention:
    lite = saccade.LiteAttention(threshold=-6.0, **RULES[rule])
    run(lite, range(steps))
    saccade.save_state(lite, path)
    return lite


@pytest.mark.parametrize("rule", RULES)
def test_a_generation_goes_on_bit_by_bit(tmp_path: Path, rule: str) -> None:
    path = tmp_path / "state.safetensors"
    lite = saved(path, rule)
    expected = run(lite, range(2, 5))
    resumed = saccade.LiteAttention(threshold=-6.0, **RULES[rule])
    saccade.load_state(resumed, path)
    assert all(torch.equal(a, b) for a, b in zip(run(resumed, range(2, 5)), expected, strict=True))
    assert torch.equal(resumed.mask("uncond").words, lite.mask("uncond").words)
    assert lite.mask().sparsity() > 0.1


def test_a_model_goes_on_bit_by_bit(tmp_path: Path) -> None:
    timesteps = (900.0, 700.0, 500.0, 300.0)
    path = tmp_path / "state.safetensors"

    def steps(transformer: torch.nn.Module, which: tuple[float, ...]) -> list[Tensor]:
        return [
            call(transformer, timestep, branch, latents_of(seed))
            for timestep in which
            for seed, branch in enumerate(("cond", "uncond"))
        ]

    transformer = make_transformer()
    saccade.enable(transformer, threshold=-6.0)
    steps(transformer, timesteps[:2])
    saccade.save_state(transformer, path)
    expected = steps(transformer, timesteps[2:])

    resumed = make_transformer()
    saccade.enable(resumed, threshold=-6.0)
    saccade.load_state(resumed, path)
    found = steps(resumed, timesteps[2:])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    calls = saccade.summary(resumed).layers[0].calls
    assert [c.step for c in calls] == [2, 2, 3, 3]
    assert saccade.summary(resumed).sparsity > 0


def test_a_state_between_two_branches_of_a_step(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    transformer = make_transformer()
    saccade.enable(transformer, threshold=-6.0)
    for branch in ("cond", "uncond"):
        call(transformer, 900.0, branch)
    call(transformer, 700.0, "cond")
    saccade.save_state(transformer, path)
    resumed = make_transformer()
    saccade.enable(resumed, threshold=-6.0)
    saccade.load_state(resumed, path)
    assert torch.equal(call(resumed, 700.0, "uncond"), call(transformer, 700.0, "uncond"))
    with pytest.raises(saccade.InvalidArgument, match="called twice at timestep 700"):
        call(resumed, 700.0, "cond")


def test_other_options_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    saved(path)
    other = saccade.LiteAttention(threshold=-6.0, reference="lse", block_q=64)
    with pytest.raises(saccade.InvalidArgument) as refusal:
        saccade.load_state(other, path)
    assert "reference 'running' in the file, 'lse' here" in str(refusal.value)
    assert "block_q 128 in the file, 64 here" in str(refusal.value)
    transformer = make_transformer()
    saccade.enable(transformer)
    with pytest.raises(saccade.InvalidArgument, match="not of a model"):
        saccade.load_state(transformer, path)
    saccade.save_state(transformer, path)
    with pytest.raises(saccade.FileError, match="which options"):
        saccade.load_state(saccade.LiteAttention(), path)
    fewer = make_transformer(layers=1)
    saccade.enable(fewer)
    with pytest.raises(saccade.InvalidArgument, match=r"'blocks\.1\.attn1' in the file"):
        saccade.load_state(fewer, path)


def test_malformed_files_are_refused_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    lite = saved(path, "everything")
    tensors = load_file(path)
    _, facts = lite_state.load(path)
    before = {name: tensor.clone() for name, tensor in lite_state.pack(lite).items()}

    def refuse(changes: dict[str, Tensor | None], match: str) -> None:
        changed = {name: t for name, t in {**tensors, **changes}.items() if t is not None}
        changed = {name: t.contiguous() for name, t in changed.items()}
        lite_state.save(path, changed, {k: v for k, v in facts.items() if k == "rule"})
        with pytest.raises(saccade.FileError, match=match):
            saccade.load_state(lite, path)
        after = lite_state.pack(lite)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)

    position = tensors["cond.position"]
    refuse({"cond.position": position.int()}, r"must be int64 \[8\]")
    refuse({"cond.position": position[:5]}, r"must be int64 \[8\]")
    refuse({"cond.position": position.index_fill(0, torch.tensor(4), 32)}, "block_q must be")
    refuse({"cond.position": position.index_fill(0, torch.tensor(6), -1)}, "step -1")
    refuse({"cond.position": position.index_fill(0, torch.tensor(2), 2**62)}, "words must have")
    refuse({"cond.mask": tensors["cond.mask"][:, :1]}, "words must have shape")
    refuse({"cond.mask": torch.full_like(tensors["cond.mask"], -1)}, "bits beyond its tiles")
    refuse({"cond.ref": tensors["cond.ref"][..., :7]}, "ref of branch 'cond' must be")
    refuse({"cond.spent": tensors["cond.spent"].double()}, "spent of branch 'cond' must be")
    refuse({"cond.spent": None}, "needs mask, position, ref, spent")
    lite = saved(path, "strongest")
    tensors = load_file(path)
    _, facts = lite_state.load(path)
    before = {name: tensor.clone() for name, tensor in lite_state.pack(lite).items()}
    refuse({"cond.scores": tensors["cond.scores"][..., :3]}, "scores of branch 'cond' must be")
    refuse({"cond.scores": tensors["cond.scores"].double()}, "scores of branch 'cond' must be")
    refuse({"cond.scores": None}, "needs mask, position, scores")
    refuse({"stray": torch.zeros(3)}, "the state of branch ''")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is no state"),
        (b"\xff" * 64, "is no state"),
        (save({"x": torch.zeros(2)}), "is no state"),
        (save({}, {lite_state.FORMAT: "{"}), "is no state"),
        (save({}, {lite_state.FORMAT: "[]"}), "has version None"),
        (save({}, {lite_state.FORMAT: json.dumps({"version": 99})}), "version 99"),
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    with pytest.raises(saccade.FileError, match=match):
        saccade.load_state(saccade.LiteAttention(), path)


def test_unreadable_files_are_reported_as_such(tmp_path: Path) -> None:
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(saccade.FileError, match=f"cannot read {missing}: "):
            saccade.load_state(saccade.LiteAttention(), missing)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", "/proc"):
        with pytest.raises(saccade.FileError, match=r"cannot write .*state: "):
            saccade.save_state(saccade.LiteAttention(), Path(folder) / "state")
    assert issubclass(saccade.FileError, OSError)


@pytest.mark.parametrize("timesteps", [["900"], [math.inf], [10**400], "900", None])
def test_timelines_from_files_are_checked(tmp_path: Path, timesteps: object) -> None:
    path = tmp_path / "state.safetensors"
    transformer = make_transformer()
    saccade.enable(transformer)
    call(transformer, 900.0)
    saccade.save_state(transformer, path)
    tensors, facts = lite_state.load(path)
    facts["trajectories"][""]["timesteps"] = timesteps
    facts = {name: facts[name] for name in ("rules", "trajectories")}
    lite_state.save(path, tensors, facts)
    with pytest.raises(saccade.FileError, match="how far its transformers had come"):
        saccade.load_state(transformer, path)


def test_tensors_of_no_layer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    transformer = make_transformer()
    saccade.enable(transformer)
    call(transformer, 900.0)
    saccade.save_state(transformer, path)
    tensors, facts = lite_state.load(path)
    renamed = {name.replace("blocks.1", "blocks.9"): tensor for name, tensor in tensors.items()}
    lite_state.save(path, renamed, {name: facts[name] for name in ("rules", "trajectories")})
    with pytest.raises(
        saccade.FileError, match=r"'blocks\.9\.attn1/cond.* is of none of its layers"
    ):
        saccade.load_state(transformer, path)

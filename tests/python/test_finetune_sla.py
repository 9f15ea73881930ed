"""examples/finetune_sla.py on tiny checkpoints: losses, resuming, processes, what it writes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from safetensors.torch import load_file, save_file

import saccade
from wan_models import make_transformer

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))

import finetune_sla  # noqa: E402


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    """A checkpoint of Wan with random weights, and a folder of latents and prompts."""
    folder = tmp_path_factory.mktemp("wan")
    transformer = make_transformer()
    transformer.save_pretrained(folder / "model/transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "model/scheduler")
    (folder / "data").mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        sample = {
            "latents": torch.randn(4, 5, 16, 16, generator=generator),
            "prompt_embeds": torch.randn(8, 32, generator=generator),
        }
        save_file(sample, folder / f"data/{i}.safetensors")
    empty = {"prompt_embeds": torch.zeros(8, 32)}
    save_file(empty, folder / "data/empty_prompt.safetensors")
    return folder


def arguments(wan, work, *options):
    return [
        *("--model", str(wan / "model"), "--data", str(wan / "data"), "--work", str(work)),
        *("--device", "cpu", "--steps", "4", "--batch", "2", "--held-out", "2"),
        *("--learning-rate", "1e-3", "--critical", "2", *options),
    ]


def finetune(wan, work, *options):
    finetune_sla.main(arguments(wan, work, *options))


def log_of(work):
    return [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]


def weights_of(work):
    return load_file(work / "sla.safetensors") | load_file(
        work / "transformer/diffusion_pytorch_model.safetensors"
    )


def test_training_everything(wan, tmp_path, capsys):
    finetune(wan, tmp_path, "--ema", "0.9")
    text = capsys.readouterr().out
    log = log_of(tmp_path)
    assert [entry["step"] for entry in log] == [0, 4]
    assert log[0]["held_out_dense"] == log[1]["held_out_dense"]  # the teacher does not learn
    assert log[0]["held_out_dense"]["velocity"] == 0
    assert log[0]["held_out"]["velocity"] > 0
    assert log[1]["held_out"]["diffusion"] < log[0]["held_out"]["diffusion"]
    assert f"{4 * 2 * 320:,} tokens" in text
    assert "pretrained on: unknown" in text
    loaded = WanTransformer3DModel.from_pretrained(tmp_path / "transformer")
    saccade.load_sla(loaded, tmp_path / "sla.safetensors")
    attention = saccade.summary(loaded).layers[0].attention
    assert attention.critical == 2
    assert attention.proj_l.weight.norm() > 0


def test_an_interruption_changes_no_bit(wan, tmp_path):
    options = ("--ema", "0.9", "--loss", "velocity", "--gradient-checkpointing")
    finetune(wan, tmp_path / "whole", *options)
    finetune(wan, tmp_path / "parts", *options, "--stop-at", "3")
    finetune(wan, tmp_path / "parts", *options)
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(parts[name], weight) for name, weight in whole.items())
    assert log_of(tmp_path / "parts")[-1]["held_out"] == log_of(tmp_path / "whole")[-1]["held_out"]


def test_two_processes_are_one(wan, tmp_path):
    """AdamW makes the sign of a gradient a step: rounding may move a weight by that."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, str(EXAMPLES / "finetune_sla.py")]
    command += arguments(wan, tmp_path / "two")
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen(command, env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    finetune(wan, tmp_path / "one", "--accumulate", "2")
    assert [process.wait() for process in running] == [0, 0]
    for one, two in zip(log_of(tmp_path / "one"), log_of(tmp_path / "two"), strict=True):
        for losses in ("held_out", "held_out_dense"):
            assert one[losses] == pytest.approx(two[losses], rel=1e-4, abs=1e-6)
    assert log_of(tmp_path / "one")[-1]["train_loss"] == pytest.approx(
        log_of(tmp_path / "two")[-1]["train_loss"], rel=1e-4
    )
    two = weights_of(tmp_path / "two")
    for name, weight in weights_of(tmp_path / "one").items():
        assert (two[name] - weight).abs().mean() < 1e-5, name


@pytest.mark.parametrize("train", ["proj", "lora"])
def test_the_model_itself_may_stay_as_it_is(wan, tmp_path, train):
    finetune(wan, tmp_path, "--train", train)
    assert not (tmp_path / "transformer").exists()
    assert (tmp_path / "lora").exists() == (train == "lora")
    loaded = WanTransformer3DModel.from_pretrained(wan / "model/transformer")
    if train == "lora":
        loaded.load_lora_adapter(tmp_path / "lora", prefix=None, use_safetensors=True)
    saccade.load_sla(loaded, tmp_path / "sla.safetensors")
    assert loaded.blocks[0].attn1.sla.proj_l.weight.norm() > 0
    losses = [entry["held_out"]["diffusion"] for entry in log_of(tmp_path)]
    assert losses[1] != losses[0]


def test_the_demo_model_on_drawn_clips(tmp_path, capsys):
    size = ("--frames", "4", "--size", "32", "--batch", "1", "--steps", "2", "--held-out", "1")
    finetune_sla.main(["--work", str(tmp_path), "--device", "cpu", *size])
    text = capsys.readouterr().out
    tokens = 2 * 4 * 8 * 8
    assert f"{tokens:,} tokens" in text
    assert "pretrained on: 0.00%" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--held-out", "6"), "has 6 files of latents, but 6 are held out"),
        (("--batch", "3", "--accumulate", "2"), "--batch 3 must be a multiple"),
    ],
)
def test_what_is_wrong_is_named(wan, tmp_path, options, message):
    with pytest.raises(saccade.InvalidArgument, match=message):
        finetune(wan, tmp_path, *options)


def test_a_checkpoint_of_other_weights_is_refused(wan, tmp_path):
    finetune(wan, tmp_path, "--stop-at", "1", "--train", "proj")
    with pytest.raises(saccade.InvalidArgument, match="other --train"):
        finetune(wan, tmp_path)

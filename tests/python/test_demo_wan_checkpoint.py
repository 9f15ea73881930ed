"""The demo on a Wan checkpoint in diffusers format: tokenizer, text encoder, VAE and all."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

from saccade.demo.__main__ import main

LETTERS = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [
    (letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A text-to-video pipeline like the published ones, only tiny and untrained."""
    folder = tmp_path_factory.mktemp("wan") / "checkpoint"
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=64, in_channels=16, out_channels=16, text_dim=32,
        freq_dim=32, ffn_dim=64, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=len(LETTERS), d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    )
    WanPipeline(
        tokenizer=T5TokenizerFast(vocab=LETTERS, extra_ids=0),
        text_encoder=text_encoder,
        vae=AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1),
        transformer=transformer,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    ).save_pretrained(folder)
    return folder


def run(checkpoint, out, *options):
    small = ("--frames=9", "--height=128", "--width=128", "--steps=3", "--device=cpu")
    return main(["--model", str(checkpoint), "--out", str(out), *small, *options])


def test_clips_are_drawn_and_tiles_skipped(checkpoint, tmp_path):
    options = ("--prompt=a cat", "--threshold=0", "--threshold=-inf")  # all and nothing is skipped
    assert run(checkpoint, tmp_path, *options) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    numbers = json.loads((tmp_path / "report.json").read_text())
    dense, sparse, full = numbers["summary"]
    assert dense["tokens"] == 3 * 8 * 8  # (9 - 1) / 4 + 1 latent frames of 128 / 16 patches
    assert sparse["sparsity"]["mean"] > 0.3
    assert full["sparsity"]["mean"] == 0
    assert full["psnr"]["mean"] > 60
    assert sparse["psnr"]["mean"] < full["psnr"]["mean"]
    assert numbers["measurements"][1]["branches"] == ["cond", "uncond"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "has no prompts of its own; give --prompt"),
        (("--prompt= ",), "prompt must not be empty"),
        (("--prompt=a cat", "--frames=10"), "frames must be 1 more than a multiple of 4, got 10"),
    ],
)
def test_what_it_cannot_draw_is_named(checkpoint, tmp_path, capsys, options, message):
    assert run(checkpoint, tmp_path, *options) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_part_is_named(checkpoint, tmp_path, capsys):
    broken = tmp_path / "broken"
    for source in checkpoint.rglob("*"):
        if source.is_file() and "vae" not in source.parts:
            target = broken / source.relative_to(checkpoint)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    assert run(broken, tmp_path / "out", "--prompt=a cat") == 2
    message = f"error: {broken} is not a complete Wan checkpoint: vae/ is missing\n"
    assert capsys.readouterr().err == message
    assert list((tmp_path / "out").iterdir()) == []

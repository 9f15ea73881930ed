"""What the report says of a sweep: the clips that it shows, and how they were made."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch

import saccade

from ..report import Clip, Contents
from ..space_time import Box
from .draw import Drawn, Request
from .models import Model
from .warm_up import NativeComparison

SHOWN_PROMPTS = 2


def contents_of(
    model: Model,
    drawn: Sequence[Drawn],
    first: Request,
    native: NativeComparison,
    command: str,
) -> Contents:
    """The report of generations that differ from ``first`` in prompt, method and frames."""
    measurements = [one.measurement for one in drawn]
    tokens = measurements[0].tokens
    return Contents(
        title="Dense attention against LiteAttention",
        lead=(
            f"A diffusion transformer draws clips of {tokens:,} tokens in "
            f"{first.sampling.steps} denoising steps. LiteAttention drops a tile of the "
            "attention matrix for the rest of the generation once no weight in it matters; "
            "everything else stays the same."
        ),
        measurements=measurements,
        clips=_shown(drawn),
        masks=[one.masks for one in drawn if one.masks is not None],
        facts=_facts(model, first, native, command, len({m.clip_key for m in measurements})),
        training=model.training_log,
    )


def _shown(drawn: Sequence[Drawn]) -> list[Clip]:
    keys = list(dict.fromkeys(one.measurement.clip_key for one in drawn))[:SHOWN_PROMPTS]
    return [
        Clip(
            label=one.measurement.label,
            prompt=f"{one.measurement.prompt}, seed {one.measurement.seed}",
            caption=_caption(one),
            frames=one.clip,
        )
        for one in drawn
        if one.measurement.clip_key in keys
    ]


def _caption(one: Drawn) -> str:
    m = one.measurement
    quality = "" if m.psnr is None else f"{m.psnr:.1f} dB, {m.sparsity:.0%} skipped, "
    seen = "" if m.recognised is None else f", seen as {m.recognised}"
    return f"{quality}attention {m.attention_seconds:.1f} s{seen}"


def _facts(
    model: Model, first: Request, native: NativeComparison, command: str, clips: int
) -> list[tuple[str, str]]:
    info = saccade.info()
    commit = f" ({info['commit']})" if info["commit"] else ""
    return [
        ("command", command),
        (
            "model",
            f"{model.name}: {model.description}; {_size_of(model)}; "
            f"fingerprint {model.fingerprint}",
        ),
        ("clips", f"{clips}, seeds from {first.seed}, guidance {first.sampling.guidance:g}"),
        (
            "tiles",
            f"{first.block_q} × {first.block_k} logits; dense in the first "
            f"{first.dense_first_steps} steps; token order {_order_name(first.token_order)}",
        ),
        (
            "dense baseline",
            "saccade's own kernel over all tiles. One denoising step, warm: "
            f"{native.dense_seconds:.2f} s with it, {native.native_seconds:.2f} s with the "
            "attention that diffusers chooses",
        ),
        ("timing", "wall time of one run each, after a warm-up; other programs may have run"),
        ("processor", f"{processor_name()}, {torch.get_num_threads()} threads"),
        ("instruction sets", ", ".join(info["cpu_targets"])),
        (
            "versions",
            f"saccade {info['version']}{commit}, torch {torch.__version__}, diffusers "
            f"{diffusers.__version__}, Python {platform.python_version()}, {platform.system()}",
        ),
        *_classifier_fact(model),
    ]


def _order_name(token_order: str | Box) -> str:
    return token_order if isinstance(token_order, str) else " × ".join(map(str, token_order))


def _size_of(model: Model) -> str:
    transformer = model.pipeline.transformer
    parameters = sum(p.numel() for p in transformer.parameters())
    config = transformer.config
    return (
        f"{parameters / 1e6:.1f} million parameters, {config.num_layers} layers of "
        f"{config.num_attention_heads} heads, {str(transformer.dtype).removeprefix('torch.')}"
    )


def _classifier_fact(model: Model) -> list[tuple[str, str]]:
    if model.classifier is None:
        return []
    accuracy = model.classifier.accuracy
    return [
        (
            "classifier",
            f"recognises {accuracy.clean:.1%} of {accuracy.clips} held-out real clips, and "
            f"{accuracy.degraded:.1%} of them blurred and noisy",
        )
    ]


def processor_name() -> str:
    """As the operating system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()

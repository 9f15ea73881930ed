"""The bundled model: prompts of five words, latents that are folded pixels."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from torch import Tensor

from ..errors import InvalidArgument
from ..lite_schedule import LiteSchedule
from . import checkpoint
from .classifier import load_classifier
from .models import (
    Defaults,
    Model,
    OnStep,
    Sampling,
    Shape,
    after_each_step,
    dtype_for,
    require_multiples_of_16,
)
from .moving_shapes import LATENT_CHANNELS, Prompt, embed, unfold

FRAMES, SIZE = 16, 64
MAX_FRAMES = 128
PIXELS_PER_TOKEN = 4  # along height and width: 2 of the folding times 2 of the patch


class MovingShapesModel(Model):
    """Reads a folder written by examples/train_demo_model.py; see checkpoint.py for its parts."""

    description = "a small Wan transformer trained on moving shapes"
    defaults = Defaults(
        prompts=(
            "ring cyan striped left waves",
            "cross red plain right checks",
            "triangle yellow checked up bands",
            "disc magenta striped down checks",
            "square green plain left bands",
            "ring red checked right bands",
            "cross blue striped down waves",
            "triangle magenta plain left checks",
        ),
        thresholds=(-1.0, -0.25, -0.05),
        study_thresholds=(-4.0, -2.0, -1.0, -0.5, -0.25, -0.1, -0.05),
        long_frames=24,
        sampling=Sampling(steps=12, guidance=3.0),
        dense_first_steps=3,
    )

    def __init__(self, folder: Path, device: torch.device) -> None:
        checkpoint.require_demo_checkpoint(folder)
        self.name = folder.name
        weights = (folder / checkpoint.WEIGHTS).read_bytes()
        self.fingerprint = hashlib.sha256(weights).hexdigest()[:12]
        self.training_log = checkpoint.training_log(folder)
        classifier = folder / "classifier.safetensors"
        self.classifier = load_classifier(classifier) if classifier.exists() else None
        schedule = folder / "schedule.json"
        self.schedule = LiteSchedule.load(schedule) if schedule.exists() else None
        self.pipeline = WanPipeline(
            tokenizer=None,
            text_encoder=None,
            vae=None,
            transformer=checkpoint.load_transformer(folder, dtype_for(device)).to(device),
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        )
        self.pipeline.set_progress_bar_config(disable=True)

    def draw(
        self, prompt: str, seed: int, shape: Shape, sampling: Sampling, on_step: OnStep
    ) -> Tensor:
        frames, height, width = _resolved(shape)
        noise = torch.randn(
            (1, LATENT_CHANNELS, frames, height // 2, width // 2),
            generator=torch.Generator().manual_seed(seed),
        )
        latents = self.pipeline(
            prompt_embeds=embed([Prompt.parse(prompt)]).to(self.pipeline.device),
            negative_prompt_embeds=embed([None]).to(self.pipeline.device),
            latents=noise,
            height=height,
            width=width,
            # Without an autoencoder this number is only checked, by the rule of Wan's own.
            num_frames=4 * frames + 1,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            output_type="latent",
            callback_on_step_end=after_each_step(on_step),
        ).frames
        return unfold(latents.float().cpu())[0]

    def tokens(self, shape: Shape) -> int:
        frames, height, width = _resolved(shape)
        return frames * (height // PIXELS_PER_TOKEN) * (width // PIXELS_PER_TOKEN)

    def check_prompt(self, prompt: str) -> None:
        Prompt.parse(prompt)

    def check_shape(self, shape: Shape) -> None:
        require_multiples_of_16(shape)
        if shape.frames is not None and not 1 <= shape.frames <= MAX_FRAMES:
            raise InvalidArgument(f"frames must be 1 to {MAX_FRAMES}, got {shape.frames}")


def _resolved(shape: Shape) -> tuple[int, int, int]:
    return shape.frames or FRAMES, shape.height or SIZE, shape.width or SIZE

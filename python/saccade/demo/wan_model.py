"""A Wan text-to-video checkpoint in diffusers format."""

from __future__ import annotations

import torch
from diffusers import WanPipeline
from torch import Tensor

from ..errors import InvalidArgument
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

FRAMES, HEIGHT, WIDTH = 81, 480, 832  # those of diffusers


class WanModel(Model):
    """Loads a folder or a model's name, by WanPipeline.from_pretrained."""

    description = "a Wan text-to-video model"
    training_log = ()
    classifier = None
    schedule = None
    defaults = Defaults(
        prompts=(),
        thresholds=(-8.0, -4.0, -2.0),
        study_thresholds=(-12.0, -8.0, -6.0, -4.0, -3.0, -2.0, -1.0),
        long_frames=121,
        sampling=Sampling(steps=50, guidance=5.0),
        dense_first_steps=1,
    )

    def __init__(self, path_or_id: str, device: torch.device) -> None:
        self.name = self.fingerprint = path_or_id
        try:
            self.pipeline = WanPipeline.from_pretrained(
                path_or_id, dtype={"default": dtype_for(device), "vae": torch.float32}
            )
        except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
            raise InvalidArgument(
                f"{path_or_id} cannot be loaded as a Wan pipeline of diffusers: {error}"
            ) from None
        if not isinstance(self.pipeline, WanPipeline):
            raise InvalidArgument(
                f"{path_or_id} is a {type(self.pipeline).__name__}, expected a WanPipeline"
            )
        self.pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    def draw(
        self, prompt: str, seed: int, shape: Shape, sampling: Sampling, on_step: OnStep
    ) -> Tensor:
        frames, height, width = _resolved(shape)
        clip = self.pipeline(
            prompt=prompt,
            height=height,
            width=width,
            num_frames=frames,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            callback_on_step_end=after_each_step(on_step),
        ).frames[0]
        return clip.float().cpu().transpose(0, 1)

    def tokens(self, shape: Shape) -> int:
        frames, height, width = _resolved(shape)
        patch = self.pipeline.transformer.config.patch_size
        spatial = self.pipeline.vae_scale_factor_spatial
        latent_frames = (frames - 1) // self.pipeline.vae_scale_factor_temporal + 1
        rows, columns = height // (spatial * patch[1]), width // (spatial * patch[2])
        return latent_frames // patch[0] * rows * columns

    def check_prompt(self, prompt: str) -> None:
        if not prompt.strip():
            raise InvalidArgument("a prompt must not be empty")

    def check_shape(self, shape: Shape) -> None:
        require_multiples_of_16(shape)
        if shape.frames is not None and (shape.frames < 1 or shape.frames % 4 != 1):
            nearest = max(0, shape.frames) // 4 * 4 + 1
            raise InvalidArgument(
                f"frames must be 1 more than a multiple of 4, got {shape.frames}; {nearest} is near"
            )


def _resolved(shape: Shape) -> tuple[int, int, int]:
    return shape.frames or FRAMES, shape.height or HEIGHT, shape.width or WIDTH

"""Tiny random models of diffusers' Wan, and what saccade has computed in them."""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel

import saccade

PATHS = ["blocks.0.attn1", "blocks.1.attn1"]


def make_transformer(seed=0, layers=2):
    torch.manual_seed(seed)
    transformer = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=64,
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=32,
        ffn_dim=64,
        num_layers=layers,
        rope_max_seq_len=32,
    )
    for block in transformer.blocks:  # sharp attention: many tiles are negligible
        block.attn1.norm_q.weight.data *= 16
    return transformer.eval().requires_grad_(False)


def latents_of(seed=0, batch=1, frames=5):
    """Each frame has a colour of its own, so that its tokens attend alike: one key tile a frame."""
    generator = torch.Generator().manual_seed(seed)
    colours = 3 * torch.randn(1, 4, frames, 1, 1, generator=generator)
    return colours + 0.3 * torch.randn(batch, 4, frames, 16, 16, generator=generator)


def text_of(seed=0, batch=1):
    return torch.randn(batch, 8, 32, generator=torch.Generator().manual_seed(100 + seed))


def call(transformer, timestep, branch="cond", latents=None, text=None):
    """One call of a transformer; branch None is without a context."""
    latents = latents_of() if latents is None else latents
    batch = latents.shape[0]
    arguments = {
        "hidden_states": latents,
        "timestep": torch.full((batch,), float(timestep)),
        "encoder_hidden_states": text_of(batch=batch) if text is None else text,
    }
    if branch is None:
        return transformer(**arguments).sample
    with transformer.cache_context(branch):
        return transformer(**arguments).sample


def make_pipeline(boundary_ratio=None):
    return WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=make_transformer(0),
        transformer_2=None if boundary_ratio is None else make_transformer(1),
        boundary_ratio=boundary_ratio,
    )


def generate(pipeline, steps=3, guidance_scale=3.0, **options):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt_embeds=text_of(0),
        negative_prompt_embeds=text_of(1),
        latents=latents_of(),
        height=128,
        width=128,
        num_frames=17,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        output_type="latent",
        **options,
    ).frames


def steps_of(model, layer=0):
    return [(c.step, c.branch) for c in saccade.summary(model).layers[layer].calls]


def masks_of(model, branch="cond"):
    return [layer.attention.mask(branch).words for layer in saccade.summary(model).layers]

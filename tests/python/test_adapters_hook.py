"""The hook on a transformer: it reads every form of timestep, and stays out of compiled code."""

from __future__ import annotations

import pytest
import torch

import saccade
from saccade.adapters.diffusers_hooks import _timestep_of
from wan_models import call, latents_of, make_transformer, steps_of, text_of


@pytest.mark.parametrize(
    "timesteps",
    [
        lambda t: torch.tensor([t, t]),
        lambda t: torch.tensor(t),
        lambda t: torch.tensor([[0.0] * 160 + [t] * 160]),
    ],
)
def test_every_shape_of_timestep(timesteps):
    assert _timestep_of(None, timesteps(7.5)) == 7.5
    assert _timestep_of(hidden_states=None, timestep=timesteps(7.5), return_dict=False) == 7.5


def test_timestep_by_position_and_by_token():
    transformer = make_transformer()
    saccade.enable(transformer)
    for timestep in (1000.0, 900.0):
        by_token = torch.full((1, 320), timestep)
        by_token[:, :64] = 0
        transformer(latents_of(), by_token, text_of())
    assert steps_of(transformer) == [(0, "cond"), (1, "cond")]


def test_blocks_can_be_compiled():
    torch.compiler.reset()
    transformer, eager = make_transformer(layers=1), make_transformer(layers=1)
    for model in (transformer, eager):
        saccade.enable(model, threshold=-6.0)
    transformer.compile_repeated_blocks(backend="eager")
    for timestep in (1000, 900, 800):
        torch.testing.assert_close(call(transformer, timestep), call(eager, timestep))
    assert steps_of(transformer) == steps_of(eager)

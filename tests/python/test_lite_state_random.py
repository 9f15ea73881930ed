"""Saved states that were damaged at random: refused, or as good as any; nothing in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

import saccade
from saccade import lite_state
from wan_models import call, make_transformer

RULES: dict[str, dict[str, Any]] = {
    "own masks": {"threshold": -6.0, "reference": "lse", "mass_budget": 0.5, "reprobe_period": 3},
    "shared mask": {"threshold": -6.0, "reference": "lse", "shares_masks": True},
}
REFUSALS = (saccade.FileError, saccade.InvalidArgument)  # damaged, or of other options now


def problem(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [3 * torch.randn(1, 2, 200, 16, generator=generator) for _ in range(3)]


class SavedState:
    """The file of a state within its third step, and damaged copies beside it."""

    def __init__(self, path: Path, rule: str) -> None:
        self.rule, self.path = RULES[rule], path
        lite = saccade.LiteAttention(**self.rule)
        for step, branch in ((0, "cond"), (0, "uncond"), (1, "cond"), (1, "uncond"), (2, "cond")):
            lite(*problem(step), step=step, branch=branch)
        saccade.save_state(lite, path)
        self.content = path.read_bytes()
        with safe_open(path, "pt") as file:
            self.metadata = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    def is_state(self, content: bytes) -> bool:
        """Whether a file of these bytes is a state; later steps must be possible then."""
        path = self.path.with_name("damaged")
        path.write_bytes(content)
        lite = saccade.LiteAttention(**self.rule)
        lite.states = before = {}
        try:
            saccade.load_state(lite, path)
        except REFUSALS:
            assert lite.states is before
            assert lite.states == {}
            assert lite.shared is None
            return False
        out = lite(*problem(3), step=2**62, branch="uncond")
        assert out.shape == (1, 2, 200, 16)
        return True


@pytest.fixture(scope="module", params=RULES)
def state(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SavedState:
    return SavedState(tmp_path_factory.mktemp("state") / "state.safetensors", request.param)


def test_the_undamaged_file_is_a_state(state: SavedState) -> None:
    assert state.is_state(state.content)
    assert state.is_state(save(state.tensors, state.metadata))


@given(st.data())
def test_damaged_bytes(state: SavedState, data: st.DataObject) -> None:
    content = bytearray(state.content)
    header = int.from_bytes(content[:8], "little") + 8
    places = st.one_of(st.integers(0, header - 1), st.integers(0, len(content) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    state.is_state(bytes(content[:end]))


numbers = st.one_of(st.integers(-2, 300), st.integers(-(2**63), 2**63 - 1))


@given(data=st.data(), numbers=st.dictionaries(st.integers(0, 7), numbers, min_size=1, max_size=3))
def test_damaged_positions(state: SavedState, data: st.DataObject, numbers: dict[int, int]) -> None:
    names = [name for name in state.tensors if name.endswith("position")]
    name = data.draw(st.sampled_from(names))
    damaged = state.tensors[name].clone()
    for place, number in numbers.items():
        damaged[place] = number
    state.is_state(save({**state.tensors, name: damaged}, state.metadata))


dtypes = st.sampled_from([torch.int64, torch.float32, torch.float64, torch.uint8, torch.bool])
shapes = st.lists(st.integers(0, 4), max_size=5)


@given(data=st.data(), shape=shapes, dtype=dtypes)
def test_foreign_tensors(
    state: SavedState, data: st.DataObject, shape: list[int], dtype: torch.dtype
) -> None:
    names = sorted([*state.tensors, "stray", "cond.stray"])
    name = data.draw(st.sampled_from(names))
    foreign = torch.ones(shape, dtype=dtype)
    is_same = name in state.tensors and state.tensors[name].shape == foreign.shape
    damaged = {**state.tensors, name: foreign}
    assert not state.is_state(save(damaged, state.metadata)) or is_same


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.sampled_from(["", "cond", "blocks.0.attn1", "running"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def places_in(value: object, place: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """The keys that lead to each part of a JSON value, but to the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, part in items:
        found.append((*place, key))
        if isinstance(part, dict | list):
            found += places_in(part, (*place, key))
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """An enabled model, and its state."""
    transformer = make_transformer()
    saccade.enable(transformer, threshold=-6.0)
    for timestep in (900.0, 700.0):
        call(transformer, timestep)
    path = tmp_path_factory.mktemp("model") / "state.safetensors"
    saccade.save_state(transformer, path)
    return transformer, path


@given(data=st.data(), value=values)
def test_damaged_facts_of_a_model(
    model: tuple[torch.nn.Module, Path], data: st.DataObject, value: object
) -> None:
    transformer, path = model
    tensors, facts = lite_state.load(path)
    *way, last = data.draw(st.sampled_from(places_in(facts)))
    part: Any = facts
    for key in way:
        part = part[key]
    if value is None and isinstance(part, dict):
        del part[last]
    else:
        part[last] = value
    damaged = path.with_name("damaged")
    damaged.write_bytes(save(tensors, {lite_state.FORMAT: json.dumps(facts)}))
    try:
        saccade.load_state(transformer, damaged)
    except REFUSALS:
        saccade.save_state(transformer, damaged)  # what the model is at
        assert damaged.read_bytes() == path.read_bytes()
    else:
        saccade.load_state(transformer, path)

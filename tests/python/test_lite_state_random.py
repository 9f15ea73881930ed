"""Saved states that were damaged at random: refused with FileError, or as good as any."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

import saccade

RULE = {"threshold": -6.0, "reference": "lse", "mass_budget": 0.5, "reprobe_period": 3}


def problem(step: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [3 * torch.randn(1, 2, 200, 16, generator=generator) for _ in range(3)]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state after two steps; tests replace the file beside it."""
    lite = saccade.LiteAttention(**RULE)
    for step in range(2):
        lite(*problem(step), step=step)
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    saccade.save_state(lite, path)
    return path


def load(path: Path, content: bytes) -> bool:
    """Whether a file of these bytes is a state; the step after it must be possible then."""
    path.write_bytes(content)
    lite = saccade.LiteAttention(**RULE)
    try:
        saccade.load_state(lite, path)
    except (saccade.FileError, saccade.InvalidArgument):  # damaged, or of other options now
        assert lite.states == {}
        return False
    out = lite(*problem(2), step=2)
    assert out.shape == (1, 2, 200, 16)
    return True


def test_the_undamaged_file_is_a_state(state: Path) -> None:
    assert load(state.with_name("damaged"), state.read_bytes())


@given(st.data())
def test_damaged_bytes(state: Path, data: st.DataObject) -> None:
    content = bytearray(state.read_bytes())
    header = int.from_bytes(content[:8], "little") + 8
    places = st.one_of(st.integers(0, header - 1), st.integers(0, len(content) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    load(state.with_name("damaged"), bytes(content[:end]))


numbers = st.one_of(st.integers(-2, 300), st.integers(-(2**63), 2**63 - 1))


@given(numbers=st.dictionaries(st.integers(0, 7), numbers, min_size=1, max_size=3))
def test_damaged_positions(state: Path, numbers: dict[int, int]) -> None:
    with safe_open(state, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = next(name for name in tensors if name.endswith("position"))
    for place, number in numbers.items():
        tensors[name][place] = number
    load(state.with_name("damaged"), save(tensors, metadata))


dtypes = st.sampled_from([torch.int64, torch.float32, torch.float64, torch.uint8, torch.bool])
shapes = st.lists(st.integers(0, 4), max_size=5)


@given(place=st.integers(0, 9), shape=shapes, dtype=dtypes)
def test_foreign_tensors(state: Path, place: int, shape: list[int], dtype: torch.dtype) -> None:
    with safe_open(state, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = sorted([*tensors, "stray", "cond.stray"])[place % (len(tensors) + 2)]
    is_same = name in tensors and tensors[name].shape == torch.Size(shape)
    tensors[name] = torch.ones(shape, dtype=dtype)
    assert not load(state.with_name("damaged"), save(tensors, metadata)) or is_same

"""One mask for all guidance branches: dropped is what no branch needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import saccade
from saccade import lite_state
from saccade.branch_state import BranchState

GRID = (1, 2, 300, 300)
SCHEDULE = saccade.LiteSchedule(-6.0, dense_first_steps=0)
EVERYTHING = {
    "reference": "lse",
    "order": "alternating",
    "mass_budget": 0.5,
    "reprobe_period": 3,
}
STRONGEST = {"order": "strongest", "reprobe_period": 3, "skips_values": True}


def drifting(step: int, seed: int = 0, length: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(1, 2, 5, 64, generator=generator).repeat_interleave(60, dim=2)
    q, k, v = (torch.randn(1, 2, 300, 64, generator=generator) for _ in range(3))
    q, k = centres + q + 0.02 * step, centres + k
    return q[:, :, :length], k[:, :, :length], v[:, :, :length]


def run(lite: saccade.LiteAttention, steps: range, branches: int = 2) -> list[Tensor]:
    return [
        lite(*drifting(step, seed), step=step, branch=f"branch {seed}")
        for step in steps
        for seed in range(branches)
    ]


def copy_of(mask: saccade.TileMask) -> saccade.TileMask:
    return saccade.TileMask(mask.grid, mask.words.clone())


def judged_alone(before: saccade.TileMask, step: int, seed: int) -> saccade.TileMask:
    """What one branch keeps of the tiles ``before``."""
    lite = saccade.LiteAttention(SCHEDULE)
    lite.states["cond"] = BranchState(copy_of(before), max(step - 1, 0), None, None, is_new=False)
    lite(*drifting(step, seed), step=step)
    return lite.mask()


@pytest.mark.parametrize("branches", [1, 2, 4])
def test_the_next_mask_is_what_any_branch_needs(branches: int) -> None:
    lite = saccade.LiteAttention(SCHEDULE, shares_masks=True)
    before = saccade.TileMask.full(*GRID)
    for step in range(4):
        needed = saccade.TileMask.full(*GRID) - saccade.TileMask.full(*GRID)
        for seed in range(branches):
            q, k, v = drifting(step, seed)
            out = lite(q, k, v, step=step, branch=str(seed))
            assert torch.equal(out, saccade.attention(q, k, v, tiles=before))
            needed |= judged_alone(before, step, seed)
        assert torch.equal(lite.mask(str(branches - 1)).words, needed.words)
        assert torch.equal(lite.mask("0").words, needed.words)
        before = copy_of(needed)
    assert before.sparsity() > 0.1


def test_one_branch_shares_with_nobody() -> None:
    shared = saccade.LiteAttention(threshold=-6.0, shares_masks=True, **EVERYTHING)
    alone = saccade.LiteAttention(threshold=-6.0, **EVERYTHING)
    for one, two in zip(run(shared, range(5), 1), run(alone, range(5), 1), strict=True):
        assert torch.equal(one, two)
    assert shared.state_bytes == alone.state_bytes


def test_the_state_is_one_mask_between_two_steps() -> None:
    lite = saccade.LiteAttention(threshold=-6.0, shares_masks=True)
    plane = 2 * 3 * 8  # heads, rows of tiles, one word of 64 tiles
    assert lite.state_bytes == 0
    run(lite, range(1), 3)
    run(lite, range(1, 2), 1)
    assert lite.state_bytes == 2 * plane
    for seed in (1, 2):
        lite(*drifting(1, seed), step=1, branch=f"branch {seed}")
    assert lite.state_bytes == plane
    apart = saccade.LiteAttention(threshold=-6.0)
    run(apart, range(2), 3)
    assert apart.state_bytes == 3 * plane


def test_generations_start_anew() -> None:
    lite = saccade.LiteAttention(threshold=-6.0, shares_masks=True)
    first = run(lite, range(3))
    assert all(torch.equal(a, b) for a, b in zip(run(lite, range(3)), first, strict=True))
    assert len(lite.statistics) == 6
    for _ in range(2):  # generations of one step
        again = run(lite, range(1))
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=False))
    lite.reset()
    assert (lite.state_bytes, lite.shared) == (0, None)


def test_branches_of_two_shapes_are_refused_and_new_shapes_start_full() -> None:
    lite = saccade.LiteAttention(threshold=-6.0, shares_masks=True)
    run(lite, range(2))
    lite(*drifting(2), step=2, branch="branch 0")
    with pytest.raises(saccade.InvalidArgument, match=r"one shape, .*q_len 200.*q_len 300"):
        lite(*drifting(2, 1, length=200), step=2, branch="branch 1")
    for seed in range(2):
        q, k, v = drifting(3, seed, length=200)
        found = lite(q, k, v, step=3, branch=f"branch {seed}")
        full = saccade.TileMask.full(1, 2, 200, 200)
        assert torch.equal(found, saccade.attention(q, k, v, tiles=full))


@pytest.mark.parametrize(
    "rule", [{}, EVERYTHING, STRONGEST], ids=["paper", "everything", "strongest"]
)
@pytest.mark.parametrize("calls_of_the_last_step", [0, 1, 2])
def test_a_generation_goes_on_bit_by_bit(
    tmp_path: Path, rule: dict[str, object], calls_of_the_last_step: int
) -> None:
    path = tmp_path / "state.safetensors"

    def rest(lite: saccade.LiteAttention) -> list[Tensor]:
        outs = [
            lite(*drifting(2, seed), step=2, branch=f"branch {seed}")
            for seed in range(calls_of_the_last_step, 3)
        ]
        return outs + run(lite, range(3, 6), 3)

    lite = saccade.LiteAttention(threshold=-6.0, shares_masks=True, **rule)
    run(lite, range(2), 3)
    run(lite, range(2, 3), calls_of_the_last_step)
    saccade.save_state(lite, path)
    names = {name for name in load_file(path) if name.startswith("*")}
    within_a_step = {"*.next"} if calls_of_the_last_step else set()
    assert names == {"*.mask", "*.position"} | within_a_step
    resumed = saccade.LiteAttention(threshold=-6.0, shares_masks=True, **rule)
    saccade.load_state(resumed, path)
    assert all(torch.equal(a, b) for a, b in zip(rest(resumed), rest(lite), strict=True))
    assert resumed.state_bytes == lite.state_bytes
    assert lite.mask("branch 0").sparsity() > 0.02


def test_malformed_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    lite = saccade.LiteAttention(threshold=-6.0, shares_masks=True)
    run(lite, range(2))
    run(lite, range(2, 3), 1)
    saccade.save_state(lite, path)
    tensors, facts = lite_state.load(path)
    before = lite.shared

    def refuse(name: str, tensor: Tensor | None, match: str) -> None:
        changed = {n: t for n, t in {**tensors, name: tensor}.items() if t is not None}
        lite_state.save(path, changed, {"rule": facts["rule"]})
        with pytest.raises(saccade.FileError, match=match):
            saccade.load_state(lite, path)
        assert lite.shared is before

    position = tensors["branch 0.position"]
    refuse("*.mask", None, r"'\*' needs mask, next, position, but the file has next, position")
    refuse("*.next", torch.full_like(tensors["*.next"], -1), "next of branch .* beyond its tiles")
    refuse("*.position", position[:3].clone(), r"must be int64 \[8\]")
    refuse(
        "branch 0.mask",
        tensors["*.mask"].clone(),
        "'branch 0' needs position, but .* mask, position",
    )
    shorter = position.index_fill(0, torch.tensor([2]), 290)
    refuse("branch 0.position", shorter, "'branch 0' has another grid than the shared mask")
    larger = position.index_fill(0, torch.tensor([1]), 2**50)  # whose mask would fill any memory
    refuse("branch 0.position", larger, "'branch 0' has another grid than the shared mask")

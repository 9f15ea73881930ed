"""Keys and values in shards: partial steps and their merge decide what one call decides."""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed
from torch import Tensor

import saccade

# Whole tiles, and a multiple of three, so that tiles and stripes of the shards are those of the
# whole.
SPLIT = 192
LENGTH = 320
# The first step knows no lse before it: a shard can only look at itself.
SCHEDULE = saccade.LiteSchedule(thresholds=(-math.inf, *(-6.0,) * 5))
RULES = {
    "lse": {},
    "budget": {"mass_budget": 0.05},
    "stripes": {"reprobe_period": 3},
}


def drifting(step: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(1, 2, 5, 64, generator=generator).repeat_interleave(64, dim=2)
    q, k, v = (torch.randn(1, 2, LENGTH, 64, generator=generator) for _ in range(3))
    return centres + q + 0.02 * step, centres + k, v


def shard(x: Tensor, number: int) -> Tensor:
    return x[:, :, SPLIT:] if number else x[:, :, :SPLIT]


def make(**rule: object) -> saccade.LiteAttention:
    return saccade.LiteAttention(SCHEDULE, reference="lse", **rule)


def tiles_of(shards: list[saccade.TileMask]) -> Tensor:
    return torch.cat([mask.to_dense() for mask in shards], dim=-1)


@pytest.mark.parametrize("rule", ["lse", "stripes"])
def test_two_shards_decide_like_one_call(rule: str) -> None:
    whole, parts = make(**RULES[rule]), [make(**RULES[rule]) for _ in range(2)]
    for step in range(6):
        q, k, v = drifting(step)
        expected, expected_lse = whole(q, k, v, step=step, return_lse=True)
        partials = [
            part.partial_step(q, shard(k, i), shard(v, i), step=step)
            for i, part in enumerate(parts)
        ]
        before = tiles_of([part.mask() for part in parts])
        out, lse = saccade.merge_partials(*zip(*partials, strict=True))
        assert torch.equal(tiles_of([part.mask() for part in parts]), before)
        for part in parts:
            part.finish_step(lse)
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)
        assert torch.equal(tiles_of([part.mask() for part in parts]), whole.mask().to_dense())
        active = sum(part.statistics[-1].active for part in parts)
        assert torch.equal(active, whole.statistics[-1].active)
    assert whole.mask().sparsity() > 0.1
    assert [len(part.statistics) for part in parts] == [6, 6]


def test_a_budget_is_that_of_each_shard() -> None:
    parts = [make(**RULES["budget"]) for _ in range(2)]
    for step in range(4):
        q, k, v = drifting(step)
        partials = [
            part.partial_step(q, shard(k, i), shard(v, i), step=step)
            for i, part in enumerate(parts)
        ]
        _, lse = saccade.merge_partials(*zip(*partials, strict=True))
        for part in parts:
            part.finish_step(lse)
    for part in parts:
        assert part.mask().sparsity() > 0
        assert 0 < part.states["cond"].spent.max() <= 0.05


def test_the_first_step_of_a_shard_drops_no_more_than_one_call() -> None:
    whole = saccade.LiteAttention(threshold=-6.0, reference="lse")
    parts = [saccade.LiteAttention(threshold=-6.0, reference="lse") for _ in range(2)]
    q, k, v = drifting(0)
    whole(q, k, v, step=0)
    partials = [
        part.partial_step(q, shard(k, i), shard(v, i), step=0) for i, part in enumerate(parts)
    ]
    for part in parts:
        part.finish_step(saccade.merge_partials(*zip(*partials, strict=True))[1])
    kept = tiles_of([part.mask() for part in parts])
    assert (kept | ~whole.mask().to_dense()).all()
    assert not kept.all()


def test_branches_may_be_under_way_together(tmp_path: Path) -> None:
    together, in_turn = make(), make()
    for step in range(3):
        q, k, v = drifting(step)
        lses = {}
        for branch, scale in (("cond", 1.0), ("uncond", 0.5)):
            _, lses[branch] = together.partial_step(scale * q, k, v, step=step, branch=branch)
            _, lse = in_turn.partial_step(scale * q, k, v, step=step, branch=branch)
            in_turn.finish_step(lse, branch=branch)
        with pytest.raises(saccade.InvalidArgument, match="finish_step ends a partial step"):
            saccade.save_state(together, tmp_path / "state")
        for branch, lse in lses.items():
            together.finish_step(lse, branch=branch)
    for branch in ("cond", "uncond"):
        assert torch.equal(together.mask(branch).words, in_turn.mask(branch).words)
    saccade.save_state(together, tmp_path / "state")


@pytest.mark.parametrize("shares_masks", [False, True])
def test_one_shard_is_one_call(shares_masks: bool) -> None:
    whole, part = make(shares_masks=shares_masks), make(shares_masks=shares_masks)
    for step in range(4):
        for branch in ("cond", "uncond"):
            q, k, v = drifting(step)
            expected = whole(q, k, v, step=step, branch=branch)
            out, lse = part.partial_step(q, k, v, step=step, branch=branch)
            part.finish_step(lse, branch=branch)
            assert torch.equal(out, expected)
            assert torch.equal(part.mask(branch).words, whole.mask(branch).words)


def test_refusals() -> None:
    part = make()
    q, k, v = drifting(0)
    with pytest.raises(saccade.InvalidArgument, match="'cond' has no step to finish"):
        part.finish_step(torch.zeros(1, 2, LENGTH))
    _, lse = part.partial_step(q, k, v, step=0)
    with pytest.raises(saccade.InvalidArgument, match="lse"):
        part.finish_step(lse[:, :, :-1])
    with pytest.raises(saccade.InvalidArgument, match="'uncond' has no step"):
        part.finish_step(lse, branch="uncond")
    part.finish_step(lse)
    with pytest.raises(saccade.InvalidArgument, match="no step to finish"):
        part.finish_step(lse)
    with pytest.raises(saccade.InvalidArgument, match="needs the lse reference"):
        saccade.LiteAttention().partial_step(q, k, v, step=0)
    part.partial_step(q, k, v, step=1)
    part.reset()
    with pytest.raises(saccade.InvalidArgument, match="no step to finish"):
        part.finish_step(lse)
    with pytest.raises(saccade.Unsupported, match="no_grad"):
        part.partial_step(q.requires_grad_(), k, v, step=0)


def test_operator_mutates_only_its_state() -> None:
    q, k, v = drifting(1)
    words = saccade.TileMask.full(1, 2, LENGTH, LENGTH).words
    ref, spent = torch.zeros(1, 2, LENGTH), torch.zeros(1, 2, 3)
    step = (q, k, v, words, ref, spent, None, None, None, None, 128, 64, 1, False, True, False)
    rule = ([-6.0], 0, 1, 0, 0.1, 3, False, [], [], [], [])
    torch.library.opcheck(torch.ops.saccade.lite_step, (*step, *rule))
    _, lse, _, _, computed, scores = torch.ops.saccade.lite_step(*step, *rule)
    grid = [1, 2, LENGTH, LENGTH, 128, 64]
    finish = (lse, words, ref, spent, computed, scores, None, None, grid)
    torch.library.opcheck(
        torch.ops.saccade.lite_finish_step, (*finish, False, True, [-6.0], 0.1, [], [])
    )


def _attend_on_two_ranks(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.set_num_threads(1)
    part = make()
    outs = []
    for step in range(3):
        q, k, v = drifting(step)
        partial = part.partial_step(q, shard(k, rank), shard(v, rank), step=step)
        gathered = [[torch.empty_like(x) for _ in range(2)] for x in partial]
        for everyone, own in zip(gathered, partial, strict=True):
            torch.distributed.all_gather(everyone, own.contiguous())
        out, lse = saccade.merge_partials(*gathered)
        part.finish_step(lse)
        outs.append(out)
    torch.save((outs, part.mask().to_dense()), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_with_a_shard_each(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_attend_on_two_ranks, (port, str(tmp_path)), nprocs=2)
    (outs, first), (same, second) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert all(torch.equal(one, two) for one, two in zip(outs, same, strict=True))
    whole = make()
    for step, out in enumerate(outs):
        torch.testing.assert_close(out, whole(*drifting(step), step=step), rtol=1e-4, atol=1e-5)
    assert torch.equal(torch.cat([first, second], dim=-1), whole.mask().to_dense())
    assert whole.mask().sparsity() > 0.05


def test_text_and_video_in_one_sequence() -> None:
    """Text attends to everything and everything to text in full; video to video is sparse."""
    text = 70
    ranges = [(0, text)]
    lite = saccade.LiteAttention(threshold=0.0, protected_queries=ranges, protected_keys=ranges)
    for step in range(4):
        q, k, v = drifting(step)
        before = lite.mask().to_dense() if step else None
        out = lite(q, k, v, step=step)
        torch.testing.assert_close(
            out[:, :, :text], saccade.attention(q[:, :, :text], k, v), rtol=1e-4, atol=1e-5
        )
        if before is not None:
            assert before[:, :, 0].all()  # tiles are rounded outward: 128 queries, 2 x 64 keys
            assert before[:, :, :, :2].all()
    assert not lite.mask().to_dense()[:, :, 1:, 2:].all()
    # Two calls, text and video apart, are the same attention.
    mask = lite.mask()
    q, k, v = drifting(4)
    video = saccade.TileMask.from_dense(mask.to_dense()[:, :, 1:], LENGTH - 128, LENGTH)
    apart = [
        saccade.attention(q[:, :, :128], k, v),
        saccade.attention(q[:, :, 128:], k, v, tiles=video),
    ]
    torch.testing.assert_close(lite(q, k, v, step=4), torch.cat(apart, dim=2), rtol=1e-4, atol=1e-5)

"""LiteAttention: what is skipped, what starts anew, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import saccade

GRID = {"q_len": 300, "k_len": 300}


def drifting(step: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v of a step: keys in clusters, so that many tiles are negligible, and slow change."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3 * torch.randn(1, 2, 5, 64, generator=generator).repeat_interleave(60, dim=2)
    q, k, v = (torch.randn(1, 2, 300, 64, generator=generator) for _ in range(3))
    return centres + q + 0.02 * step, centres + k, v


def run(lite: saccade.LiteAttention, steps: int, **call: object) -> list[Tensor]:
    return [lite(*drifting(step), step=step, **call) for step in range(steps)]


def test_minus_infinity_is_dense_bit_for_bit() -> None:
    full = saccade.TileMask.full(1, 2, **GRID)
    for step, out in enumerate(run(saccade.LiteAttention(threshold=-math.inf), 4)):
        assert torch.equal(out, saccade.attention(*drifting(step), tiles=full))


def test_a_step_computes_what_earlier_ones_left() -> None:
    lite = saccade.LiteAttention(threshold=-6.0, block_q=64)
    lite(*drifting(0), step=0)
    for step in range(1, 4):
        mask = lite.mask()
        before = saccade.TileMask(mask.grid, mask.words.clone())
        out = lite(*drifting(step), step=step)
        assert torch.equal(out, saccade.attention(*drifting(step), tiles=before))
        assert (lite.mask() - before).count() == 0
        assert lite.statistics[-1].sparsity == pytest.approx(before.sparsity())
    assert lite.mask().sparsity() > 0.2


def test_branches_do_not_share_tiles() -> None:
    alone = saccade.LiteAttention(threshold=-6.0)
    both = saccade.LiteAttention(threshold=-6.0)
    for step in range(3):
        alone(*drifting(step), step=step, branch="cond")
        both(*drifting(step), step=step, branch="cond")
        both(*drifting(step, seed=1), step=step, branch="uncond")
    assert torch.equal(alone.mask("cond").words, both.mask("cond").words)
    assert not torch.equal(both.mask("cond").words, both.mask("uncond").words)


@pytest.mark.parametrize("layout", ["bhsd", "bshd"])
def test_layouts_agree(layout: str) -> None:
    lite = saccade.LiteAttention(threshold=-6.0, layout=layout)
    expected = run(saccade.LiteAttention(threshold=-6.0), 3)
    for step in range(3):
        q, k, v = drifting(step)
        if layout == "bshd":
            q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
        out = lite(q, k, v, step=torch.tensor(step))
        assert torch.equal(out.transpose(1, 2) if layout == "bshd" else out, expected[step])


def test_a_second_generation_starts_full() -> None:
    lite = saccade.LiteAttention(threshold=-6.0)
    first = run(lite, 3)
    second = run(lite, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len(lite.statistics) == 3


def test_other_problems_start_full() -> None:
    lite = saccade.LiteAttention(threshold=-6.0)
    run(lite, 3)
    q, k, v = drifting(3)
    longer = lite(q, torch.cat([k, k], dim=2), torch.cat([v, v], dim=2), step=3)
    assert torch.equal(
        longer,
        saccade.LiteAttention(threshold=-6.0)(
            q, torch.cat([k, k], dim=2), torch.cat([v, v], dim=2), step=3
        ),
    )
    assert lite.mask().grid.k_len == 600


@pytest.mark.parametrize("rule", [{}, {"reference": "lse", "mass_budget": 0.5}])
def test_another_dtype_goes_on_with_the_same_tiles(rule: dict[str, object]) -> None:
    lite = saccade.LiteAttention(threshold=-6.0, **rule)
    run(lite, 2)
    before = saccade.TileMask(lite.mask().grid, lite.mask().words.clone())
    assert before.sparsity() > 0.1
    q, k, v = (x.bfloat16() for x in drifting(2))
    out = lite(q, k, v, step=2)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, saccade.attention(q, k, v, tiles=before))
    assert (lite.mask() - before).count() == 0


def test_a_state_follows_its_tensors_to_another_device() -> None:
    lite = saccade.LiteAttention(threshold=-6.0, reference="lse", mass_budget=0.5)
    run(lite, 2)
    state = lite.states["cond"]
    moved = state.to(torch.device("meta"))
    assert {tensor.device.type for tensor in moved.tensors} == {"meta"}
    assert [t.shape for t in moved.tensors] == [t.shape for t in state.tensors]
    assert (moved.step, moved.is_new) == (1, False)
    with pytest.raises(saccade.Unsupported, match="q is on meta"):
        lite(*(x.to("meta") for x in drifting(2)), step=2)
    assert lite.states["cond"] is state


def test_a_batch_that_grows_starts_full() -> None:
    lite = saccade.LiteAttention(threshold=-6.0)
    run(lite, 3)
    assert lite.mask().sparsity() > 0.1
    for batch in (3, 1):
        q, k, v = (x.repeat(batch, 1, 1, 1) for x in drifting(3))
        lite(q, k, v, step=3)
        assert lite.statistics[-1].sparsity == 0
        assert lite.mask().grid.batch == batch


def test_dense_steps_and_protected_tokens() -> None:
    schedule = saccade.LiteSchedule(
        threshold=0.0, dense_first_steps=2, dense_last_steps=1, num_steps=4
    )
    lite = saccade.LiteAttention(schedule, protected_keys=[(100, 101)], order="alternating")
    run(lite, 4)
    assert [entry.is_dense for entry in lite.statistics] == [True, True, False, True]
    assert [entry.sparsity == 0 for entry in lite.statistics] == [True, True, False, True]
    assert lite.mask().to_dense()[..., 1].all()


def test_refusals_name_the_way_out() -> None:
    lite = saccade.LiteAttention()
    q, k, v = drifting(0)
    with pytest.raises(saccade.Unsupported, match="no_grad"):
        lite(q.requires_grad_(), k, v, step=0)
    q = q.detach()
    with pytest.raises(saccade.InvalidArgument, match="step is -1"):
        lite(q, k, v, step=-1)
    with pytest.raises(saccade.InvalidArgument, match="none yet"):
        lite.mask("cond")
    lite(q, k, v, step=0)
    with pytest.raises(saccade.InvalidArgument, match="branches so far: 'cond'"):
        lite.mask("uncond")
    with pytest.raises(saccade.InvalidArgument, match="threshold is 1"):
        saccade.LiteAttention(threshold=1.0)
    with pytest.raises(TypeError, match="NoneType"):
        saccade.LiteSchedule(None)
    with pytest.raises(saccade.InvalidArgument, match="threshold is nan"):
        saccade.LiteSchedule(math.nan)
    with pytest.raises(saccade.InvalidArgument, match="not both"):
        saccade.LiteAttention(saccade.LiteSchedule(), threshold=-1.0)
    with pytest.raises(saccade.InvalidArgument, match="order must be"):
        saccade.LiteAttention(order="random")
    with pytest.raises(saccade.InvalidArgument, match="block_k must be 64 or 128"):
        saccade.LiteAttention(block_k=32)
    with pytest.raises(saccade.InvalidArgument, match="num_steps is unknown"):
        saccade.LiteSchedule(dense_last_steps=1)
    with pytest.raises(saccade.InvalidArgument, match=r"\[0, 301\)"):
        saccade.LiteAttention(protected_queries=[(0, 301)])(q, k, v, step=0)


def test_steps_are_counted_from_timesteps() -> None:
    timesteps = [1000.0, 1000.0, 900.0, 900.0, 899.5, 950.0, 940.0]
    steps = [torch.ops.saccade.lite_step_number(timesteps[: i + 1]) for i in range(len(timesteps))]
    assert steps == [0, 0, 1, 1, 2, 0, 1]


@pytest.mark.parametrize("rule", ["paper", "everything", "strongest"])
def test_operator_mutates_only_its_state(rule: str) -> None:
    q, k, v = drifting(0)
    words = saccade.TileMask.full(1, 2, **GRID).words
    ref = spent = scores = None
    options = ([-6.0], 0, 0, 0, None, 0, False, [], [], [], [])
    if rule == "everything":
        ref, spent = torch.zeros(1, 2, 300), torch.zeros(1, 2, 3)
        options = ([-6.0, -4.0], 0, 1, 2, 0.1, 3, False, [0, 5], [0, 5], [], [128, 192])
    if rule == "strongest":
        scores = torch.zeros(1, 2, 3, 5)
        options = ([-6.0], 0, 0, 4, None, 3, True, [], [], [], [128, 192])
    shape = (128, 64, 1, False, False, False)
    torch.library.opcheck(
        torch.ops.saccade.lite_step,
        (q, k, v, words, ref, spent, scores, None, None, None, *shape, *options),
    )


def mass_of_dropped_tiles(
    q: Tensor, k: Tensor, lse: Tensor, before: saccade.TileMask, after: saccade.TileMask
) -> Tensor:
    """The largest softmax mass that a row of each row of tiles loses, [batch, heads, q_tiles]."""
    logits = q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5
    weights = torch.exp(logits - lse.double()[..., None])
    gone = (before - after).to_dense().repeat_interleave(128, 2).repeat_interleave(64, 3)
    lost = (weights * gone[..., : q.shape[2], : k.shape[2]]).sum(-1)
    return torch.nn.functional.pad(lost, (0, -q.shape[2] % 128)).unflatten(-1, (-1, 128)).amax(-1)


@pytest.mark.parametrize(
    "rule", [{}, {"reference": "lse"}, {"measure": "largest_mass"}], ids=["paper", "lse", "mass"]
)
def test_a_budget_bounds_the_mass_that_is_lost(rule: dict[str, str]) -> None:
    budget = 1e-3
    lite = saccade.LiteAttention(threshold=0.0, mass_budget=budget, **rule)
    full = saccade.TileMask.full(1, 2, **GRID)
    before, lost = full, torch.zeros(1, 2, 3, dtype=torch.float64)
    for step in range(4):
        q, k, v = drifting(step)
        _, lse = lite(q, k, v, step=step, return_lse=True)
        mask = lite.mask()
        lost += mass_of_dropped_tiles(q, k, lse, before, mask)
        before = saccade.TileMask(mask.grid, mask.words.clone())
    # Weights are exponentials of f32 logits below 128, each off by 2^-17 at most.
    assert (lost <= budget * (1 + 1e-4)).all()
    assert lite.mask().sparsity() > 0.1


@pytest.mark.parametrize("measure", ["largest_mass", "mean_mass"])
def test_masses_decide_by_the_share_of_the_softmax(measure: str) -> None:
    lite = saccade.LiteAttention(threshold=-6.0, measure=measure)
    q, k, v = drifting(0)
    lite(q, k, v, step=0)
    weights = torch.softmax(q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
    keys = torch.nn.functional.pad(weights, (0, -k.shape[2] % 64)).unflatten(-1, (-1, 64)).sum(-1)
    for q_tile, rows in enumerate(keys.split(128, dim=2)):
        mass = rows.mean(2) if measure == "mean_mass" else rows.amax(2)
        stays = lite.mask().to_dense()[:, :, q_tile]
        is_close = (mass.log2() + 6).abs() < 1e-4
        assert ((mass > 2**-6) == stays)[~is_close].all()
    assert 0 < lite.mask().sparsity() < 1


def test_masses_take_no_reference() -> None:
    with pytest.raises(saccade.InvalidArgument, match="reference is lse, but the mean_mass"):
        saccade.LiteAttention(measure="mean_mass", reference="lse")
    with pytest.raises(saccade.InvalidArgument, match="largest_weight, largest_mass or mean_mass"):
        saccade.LiteAttention(measure="mass")


def test_strongest_first_goes_by_the_scores_of_the_step_before() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 128 * n, 64, generator=generator) for n in (1, 4, 4))
    q[..., 0] = 4
    k[..., 0] = 3.0 * torch.arange(8).repeat_interleave(64)  # ever stronger
    linear = saccade.LiteAttention(saccade.LiteSchedule(thresholds=(-math.inf, -4.0)))
    strongest = saccade.LiteAttention(linear.schedule, order="strongest")
    for step in range(2):
        full = saccade.attention(q, k, v)
        out = strongest(q, k, v, step=step)
        torch.testing.assert_close(out, full, rtol=1e-5, atol=1e-6)
        assert torch.equal(linear(q, k, v, step=step), out) == (step == 0)
        scores = strongest.states["cond"].scores
        assert scores is not None
        assert scores.isfinite().all()
    assert strongest.mask().sparsity() > 0.2
    assert linear.mask().sparsity() == 0


def test_skipped_values_are_negligible_and_not_summed_up() -> None:
    complete, skipping = (
        saccade.LiteAttention(threshold=-4.0, measures_mass=True, skips_values=skips)
        for skips in (False, True)
    )
    for step in range(3):
        q, k, v = drifting(step)
        expected, lse = complete(q, k, v, step=step, return_lse=True)
        out, lse_of_kept = skipping(q, k, v, step=step, return_lse=True)
        assert torch.equal(out, expected) == (step == 0)  # the first step is dense
        # 300 keys of 2^-4 of the largest weight at most.
        assert (lse_of_kept <= lse + 1e-5).all()
        assert (torch.exp(lse - lse_of_kept) <= 1 + 300 / 16).all()
        assert torch.equal(skipping.mask().words, complete.mask().words)
    kept, all_of_them = (lite.statistics[-1].kept_mass for lite in (skipping, complete))
    assert (kept <= all_of_them).all()
    assert skipping.facts["rule"] == "threshold, skipped values"


def test_skipped_values_are_refused_where_they_break_a_promise() -> None:
    q, k, v = drifting(0)
    text = saccade.LiteAttention(skips_values=True, protected_keys=[(0, 5)])
    with pytest.raises(saccade.InvalidArgument, match="protected tokens are given"):
        text(q, k, v, step=0)
    by_head = saccade.LiteSchedule(head_thresholds=(-4.0, -5.0))
    with pytest.raises(saccade.InvalidArgument, match="needs one for all query heads"):
        saccade.LiteAttention(by_head, skips_values=True)(q, k, v, step=0)
    everything = saccade.LiteAttention(threshold=0.0, skips_values=True)
    everything(q, k, v, step=0)  # dense
    with pytest.raises(saccade.InvalidArgument, match="a threshold below 0"):
        everything(q, k, v, step=1)


def test_dropped_tiles_come_back_with_a_stripe() -> None:
    lite = saccade.LiteAttention(threshold=-6.0, reprobe_period=3)
    run(lite, 2)
    assert lite.mask().sparsity() > 0.1
    assert lite.statistics[0].dropped_mass.tolist() == [[0.0, 0.0]]
    q, k, v = drifting(0)
    for step in range(2, 5):
        lite(torch.zeros_like(q), k, v, step=step)  # every tile weighs the same
    assert lite.mask().sparsity() == 0
    assert sum(float(entry.dropped_mass.sum()) for entry in lite.statistics[2:]) > 0


def test_skipped_tokens_are_not_read() -> None:
    q, k, v = drifting(0)
    expected = saccade.attention(q, k[:, :, :256], v[:, :, :256])
    k[:, :, 256:], v[:, :, 256:] = math.nan, math.nan
    lite = saccade.LiteAttention(threshold=-math.inf, skipped_keys=[(250, 300)])
    for step in range(2):
        out = lite(q, k, v, step=step)
        # The same tiles in the same order; dense rows may be cut elsewhere.
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
        assert lite.statistics[-1].active.tolist() == [[12, 12]]


def test_kept_mass_is_that_of_the_whole_softmax() -> None:
    lite = saccade.LiteAttention(threshold=0.0, measures_mass=True)
    lengths = torch.tensor([250], dtype=torch.int32)
    before = saccade.TileMask.full(1, 2, **GRID)
    for step in range(3):
        q, k, v = drifting(step)
        lite(q, k, v, step=step, q_lens=lengths, k_lens=lengths)
        logits = q.double() @ k.double().transpose(-1, -2) / 8
        weights = torch.softmax(logits[..., :250, :250], -1)
        active = before.to_dense().repeat_interleave(128, 2).repeat_interleave(64, 3)
        expected = (weights * active[..., :250, :250]).sum(-1).mean(-1)
        kept = lite.statistics[-1].kept_mass
        # lse is off by 1e-5 (1 + max |S|) at most, and |S| stays below 128.
        torch.testing.assert_close(kept.double(), expected, rtol=3e-3, atol=0)
        before = saccade.TileMask(before.grid, lite.mask().words.clone())
    assert (kept < 0.99).all()


def test_state_bytes_of_a_rule() -> None:
    q, k, v = drifting(0)
    sizes = {}
    for name, rule in {
        "paper": {},
        "lse": {"reference": "lse"},
        "budget": {"mass_budget": 0.1},
        "strongest": {"order": "strongest"},
    }.items():
        lite = saccade.LiteAttention(**rule)
        assert lite.state_bytes == 0
        lite(q, k, v, step=0)
        sizes[name] = lite.state_bytes
    words = 2 * 3 * 8  # heads, rows of tiles, one word of 64 tiles
    assert sizes == {
        "paper": words,
        "lse": words + 2 * 300 * 4,
        "budget": words + 2 * 3 * 4,
        "strongest": words + 2 * 3 * 5 * 4,
    }


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"reference": "max"}, "reference must be running or lse, got 'max'"),
        ({"mass_budget": -0.1}, "mass_budget is -0.1, but must be at least 0"),
        ({"reprobe_period": -1}, "reprobe_period is -1"),
        ({"order": "strongest", "reference": "lse"}, "order is strongest, but .* rounding only"),
        ({"skips_values": True, "measure": "mean_mass"}, "skips_values leaves out weights"),
        ({"skips_values": True, "mass_budget": 0.1}, "skips_values .* no mass_budget pays for"),
        ({"order": "spiral"}, "order must be linear, reversed, alternating, radial or strongest"),
    ],
)
def test_bad_rules_are_refused_at_once(rule: dict[str, object], message: str) -> None:
    with pytest.raises(saccade.InvalidArgument, match=message):
        saccade.LiteAttention(**rule)

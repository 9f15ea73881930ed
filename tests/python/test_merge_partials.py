"""merge_partials(): attention over parts of the keys is attention over all of them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import saccade
from dense_reference import FORWARD_CAP, GRADIENT_CAP, relative_error
from problems import DTYPES, LAYOUTS, make_problem, random_tiles


def float64_merge(outs, lses):
    """The formula; a partial without weight may hold anything, NaN included."""
    lses = torch.stack([lse.double() for lse in lses])
    lse = lses.logsumexp(0)
    weights = torch.where(lses > -torch.inf, (lses - lse).exp(), 0)[..., None]
    outs = torch.stack([out.double() for out in outs])
    return torch.where(weights > 0, outs, 0).mul(weights).sum(0), lse


@st.composite
def partials(draw):
    """One to five partials whose rows are missing (-inf) at random, with NaN where they are."""
    count, batch, heads = draw(st.integers(1, 5)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    length, head_dim = draw(st.integers(1, 70)), draw(st.sampled_from((16, 48, 64, 256)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(DTYPES))
    missing = draw(st.sampled_from((0.0, 0.5, 1.0)))
    spread = draw(st.sampled_from((1.0, 30.0, 1e4)))
    outs, lses = [], []
    for _ in range(count):
        out = torch.randn(batch, heads, length, head_dim, generator=generator).to(dtype)
        lse = spread * torch.randn(batch, heads, length, generator=generator)
        empty = torch.rand(batch, heads, length, generator=generator) < missing
        outs.append(out.masked_fill(empty[..., None], torch.nan))
        lses.append(lse.masked_fill(empty, -torch.inf))
    return outs, lses


@given(partials(), st.sampled_from(LAYOUTS))
def test_any_partials(case, layout):
    outs, lses = case
    dtype = outs[0].dtype
    expected_out, expected_lse = float64_merge(outs, lses)
    if layout == "bshd":
        outs = [out.transpose(1, 2).contiguous() for out in outs]
    out, lse = saccade.merge_partials(outs, lses, layout=layout)
    if layout == "bshd":
        assert out.is_contiguous()
        out = out.transpose(1, 2)
    assert relative_error(out, expected_out) <= FORWARD_CAP[dtype]
    empty = expected_lse == -torch.inf
    assert torch.equal(lse == -torch.inf, empty)
    assert out[empty].count_nonzero() == 0
    # One rounding of an f32 of this size, and the logarithm's of a sum of at most five.
    difference = (lse.double() - expected_lse)[~empty].abs()
    assert (difference <= 2**-22 * (2 + expected_lse[~empty].abs())).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_of_the_keys_make_the_whole(layout, dtype):
    """Forward and gradients of split attention equal those of attention in one piece."""
    problem = make_problem(q_heads=4, k_heads=2, k_len=320, dtype=dtype, layout=layout)
    expected = problem.expected()
    inputs = [x.requires_grad_() for x in (problem.q, problem.k, problem.v)]
    q, k, v = (x.transpose(1, 2) if layout == "bshd" else x for x in inputs)
    length = 1 if layout == "bshd" else 2
    parts = [
        saccade.attention(
            q, *(x.narrow(length, *part) for x in (k, v)), layout=layout, return_lse=True
        )
        for part in ((0, 64), (64, 250), (314, 6))
    ]
    out, lse = saccade.merge_partials(*zip(*parts, strict=True), layout=layout)
    if layout == "bshd":
        out = out.transpose(1, 2)
    dq, dk, dv = torch.autograd.grad((out, lse), inputs, (problem.dout, problem.dlse))
    # Partial outs are rounded once more than attention in one piece rounds.
    assert relative_error(out, expected.out) <= 2 * FORWARD_CAP[dtype]
    assert relative_error(dq, expected.dq, expected.dq_terms) <= 2 * GRADIENT_CAP[dtype]
    assert relative_error(dk, expected.dk, expected.dk_terms) <= 2 * GRADIENT_CAP[dtype]
    assert relative_error(dv, expected.dv) <= 2 * GRADIENT_CAP[dtype]


def test_complementary_masks_make_dense_attention():
    problem = make_problem(q_len=300, k_len=400)
    tiles = random_tiles(problem, 0.5)
    parts = [
        saccade.attention(problem.q, problem.k, problem.v, tiles=mask, return_lse=True)
        for mask in (tiles, ~tiles, tiles - tiles)
    ]
    out, lse = saccade.merge_partials(*zip(*parts, strict=True))
    expected = problem.expected()
    assert relative_error(out, expected.out) <= 2 * FORWARD_CAP[torch.float32]
    assert (lse.double() - expected.lse).abs().max() <= 1e-5 * (1 + expected.max_logit)


def test_all_partials_empty():
    outs = [torch.full((1, 2, 5, 16), torch.nan) for _ in range(3)]
    lses = [torch.full((1, 2, 5), -torch.inf) for _ in range(3)]
    out, lse = saccade.merge_partials(outs, lses)
    assert out.count_nonzero() == 0
    assert (lse == -torch.inf).all()


def test_gradients_of_empty_partials_are_zero():
    generator = torch.Generator().manual_seed(0)
    outs = [torch.randn(1, 1, 4, 16, generator=generator) for _ in range(2)]
    lses = [torch.randn(1, 1, 4, generator=generator) for _ in range(2)]
    lses[0][..., :2] = -torch.inf  # missing on one side
    lses[1][..., 1:3] = -torch.inf  # the other, and row 1 on both
    for x in outs + lses:
        x.requires_grad_()
    out, lse = saccade.merge_partials(outs, lses)
    (out.square().sum() + lse[..., [0, 2, 3]].sum()).backward()
    for x in outs + lses:
        assert x.grad.isfinite().all()
    assert outs[0].grad[..., :2, :].count_nonzero() == 0
    assert outs[1].grad[..., 1:3, :].count_nonzero() == 0
    torch.testing.assert_close(outs[0].grad[..., 2, :], 2 * outs[0][..., 2, :])


def test_gradcheck(monkeypatch):
    monkeypatch.setenv("SACCADE_BACKEND", "reference")
    generator = torch.Generator().manual_seed(1)
    shape = (1, 2, 3, 16)
    outs = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]
    lses = [torch.randn(shape[:3], generator=generator, dtype=torch.float64) for _ in range(3)]
    tensors = [x.requires_grad_() for x in outs + lses]

    def merge(*tensors):
        return saccade.merge_partials(tensors[:3], tensors[3:])

    assert torch.autograd.gradcheck(merge, tensors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_one_result_only(dtype):
    """A result that takes no part in the loss has no gradient, which counts as zero."""
    generator = torch.Generator().manual_seed(2)
    outs = [torch.randn(1, 2, 9, 32, generator=generator).to(dtype) for _ in range(2)]
    lses = [torch.randn(1, 2, 9, generator=generator) for _ in range(2)]
    for x in outs + lses:
        x.requires_grad_()
    _, lse = saccade.merge_partials(outs, lses)
    gradients = torch.autograd.grad(lse.sum(), lses, retain_graph=True)
    weights = torch.stack(lses).double().softmax(0)
    for gradient, weight in zip(gradients, weights, strict=True):
        torch.testing.assert_close(gradient.double(), weight, rtol=1e-6, atol=1e-7)
    out, _ = saccade.merge_partials(outs, lses)
    gradients = torch.autograd.grad(out.sum(), outs)
    for gradient, weight in zip(gradients, weights, strict=True):
        expected = weight[..., None].expand(gradient.shape)
        assert relative_error(gradient, expected) <= GRADIENT_CAP[dtype]

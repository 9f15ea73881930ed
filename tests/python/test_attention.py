"""attention() against float64, one property at a time."""

import math

import pytest
import torch

import saccade
from dense_reference import FORWARD_CAP, assert_close, relative_error
from problems import DTYPES, LAYOUTS, make_problem, poison_padding, random_tiles
from saccade import TileMask


def check(problem):
    assert_close(problem.run(), problem.expected(), problem.q.dtype, problem)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [16, 48, 64, 80, 128, 256])
def test_dense(head_dim, dtype, layout):
    check(make_problem(head_dim=head_dim, dtype=dtype, layout=layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_k", [64, 128])
@pytest.mark.parametrize("block_q", [64, 128])
def test_sparse(block_q, block_k, dtype, layout):
    problem = make_problem(q_len=300, k_len=333, dtype=dtype, layout=layout)
    problem.tiles = random_tiles(problem, 0.5, block_q, block_k)
    check(problem)


@pytest.mark.parametrize(
    ("q_len", "k_len"), [(1, 1), (1, 400), (65, 1), (128, 64), (127, 65), (129, 257), (400, 63)]
)
def test_lengths(q_len, k_len):
    problem = make_problem(q_len=q_len, k_len=k_len)
    check(problem)
    problem.tiles = random_tiles(problem, 0.7)
    check(problem)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("q_heads", "k_heads"), [(2, 1), (6, 2), (5, 5), (4, 1)])
def test_grouped_heads(q_heads, k_heads, layout):
    problem = make_problem(batch=2, q_heads=q_heads, k_heads=k_heads, layout=layout)
    problem.tiles = random_tiles(problem, 0.6)
    check(problem)


@pytest.mark.parametrize("scale", [0.0, 0.3, -0.2])
def test_scale(scale):
    problem = make_problem()
    problem.scale = scale
    check(problem)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_active_tile(dtype):
    problem = make_problem(q_len=300, k_len=200, dtype=dtype)
    active = torch.ones(1, 2, 3, 4, dtype=torch.bool)
    active[0, 0, 1] = False
    active[0, 1] = False
    problem.tiles = TileMask.from_dense(active, 300, 200, 128, 64)
    result = problem.run()
    for empty in (result.out[0, 0, 128:256], result.out[0, 1], result.dq[0, 0, 128:256]):
        assert empty.count_nonzero() == 0
    assert (result.lse[0, 1] == -torch.inf).all()
    assert result.dk[0, 1].count_nonzero() == result.dv[0, 1].count_nonzero() == 0
    assert_close(result, problem.expected(), dtype, problem)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_is_never_read(dtype, layout):
    problem = make_problem(batch=3, q_len=140, k_len=130, dtype=dtype, layout=layout)
    problem.q_lens = torch.tensor([140, 65, 0], dtype=torch.int32)
    problem.k_lens = torch.tensor([0, 70, 130], dtype=torch.int32)
    poison_padding(problem)
    result = problem.run()
    assert_close(result, problem.expected(), dtype, problem)
    assert result.out[1, :, 65:].count_nonzero() == 0
    assert result.dq[1, :, 65:].count_nonzero() == 0
    assert result.dk[1, :, 70:].count_nonzero() == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_through_lse_alone(dtype):
    problem = make_problem(dtype=dtype)
    q, k, v = (x.requires_grad_() for x in (problem.q, problem.k, problem.v))
    _, lse = saccade.attention(q, k, v, return_lse=True)
    dq, dk, dv = torch.autograd.grad(lse, (q, k, v), problem.dlse)
    problem.dout = torch.zeros_like(problem.dout)
    expected = problem.expected()
    assert relative_error(dq, expected.dq) <= 2 * FORWARD_CAP[dtype]
    assert relative_error(dk, expected.dk) <= 2 * FORWARD_CAP[dtype]
    assert dv.count_nonzero() == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_of_stride_zero(layout):
    """out.sum() sends back one number that is expanded to the shape of out."""
    problem = make_problem(layout=layout)
    inputs = [x.requires_grad_() for x in (problem.q, problem.k, problem.v)]
    if layout == "bshd":
        inputs = [x.transpose(1, 2) for x in inputs]
    out, lse = saccade.attention(*inputs, layout=layout, return_lse=True)
    (out.sum() + lse.sum()).backward()
    problem.dout, problem.dlse = torch.ones_like(problem.dout), torch.ones_like(problem.dlse)
    expected = problem.expected()
    assert relative_error(problem.q.grad, expected.dq, expected.dq_terms) <= 2e-5
    assert relative_error(problem.k.grad, expected.dk, expected.dk_terms) <= 2e-5
    assert relative_error(problem.v.grad, expected.dv) <= 2e-5


def test_inputs_from_one_projection():
    """q, k and v as slices of one packed tensor, read in place."""
    packed = torch.randn(2, 150, 3, 4, 32, generator=torch.Generator().manual_seed(0))
    problem = make_problem(batch=2, q_heads=4, k_heads=4, q_len=150, k_len=150, head_dim=32)
    problem.q, problem.k, problem.v = (x.transpose(1, 2) for x in packed.unbind(2))
    problem.layout = "bshd"
    check(problem)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_and_expanded_inputs(dtype):
    problem = make_problem(batch=2, q_len=140, k_len=150, dtype=dtype)
    problem.q = problem.q.repeat_interleave(2, 2)[:, :, ::2]
    problem.k = problem.k[:1].expand(2, -1, -1, -1)
    problem.v = problem.v[:, :1].expand(-1, 2, -1, -1)
    check(problem)


def test_results_have_the_strides_of_q():
    for layout in LAYOUTS:
        x = torch.randn(2, 40, 3, 16, requires_grad=True)
        out, lse = saccade.attention(x, x, x, layout=layout, return_lse=True)
        assert out.is_contiguous()
        assert lse.is_contiguous()
        assert lse.shape == ((2, 3, 40) if layout == "bshd" else (2, 40, 3))


def test_one_result_without_lse():
    x = torch.randn(1, 1, 8, 16)
    assert torch.equal(saccade.attention(x, x, x), saccade.attention(x, x, x, return_lse=True)[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_logits(dtype):
    """Logits of some thousands: the softmax saturates, nothing overflows."""
    problem = make_problem(dtype=dtype)
    problem.scale = 100.0
    result, expected = problem.run(), problem.expected()
    assert expected.max_logit > 3000
    assert all(x.isfinite().all() for x in (result.out, result.dq, result.dk, result.dv))
    # A logit of size S is known to eps * S, and that is the relative error of its weight. The
    # products of two half-precision inputs are exact in f32, so that holds for every dtype.
    tolerance = FORWARD_CAP[dtype] + 2**-23 * expected.max_logit
    assert relative_error(result.out, expected.out) <= tolerance
    assert ((result.lse - expected.lse).abs() <= 1e-5 * (1 + expected.max_logit)).all()


def test_nan_reaches_what_depends_on_it_and_nothing_else():
    problem = make_problem(q_len=200, k_len=200)
    clean = problem.run().out
    problem.q[0, 0, 7] = torch.nan
    problem.v[0, 1, 3] = torch.nan
    poisoned = problem.run().out
    assert poisoned[0, 0, 7].isnan().all()
    assert poisoned[0, 1].isnan().all()
    others = [row for row in range(200) if row != 7]
    assert torch.equal(poisoned[0, 0, others], clean[0, 0, others])


def test_gradcheck_of_the_reference(monkeypatch):
    """The formulas themselves, by finite differences, in the float64 backend."""
    monkeypatch.setenv("SACCADE_BACKEND", "reference")
    problem = make_problem(q_heads=2, k_heads=1, q_len=70, k_len=130, head_dim=16)
    tiles = TileMask.from_dense(
        torch.tensor([[[[1, 0, 1], [0, 0, 0]]] * 2]).bool(), 70, 130, 64, 64
    )
    inputs = [x.double().requires_grad_() for x in (problem.q, problem.k, problem.v)]
    k_lens = torch.tensor([129], dtype=torch.int32)

    def finite_results(q, k, v):
        out, lse = saccade.attention(q, k, v, tiles=tiles, k_lens=k_lens, return_lse=True)
        return out, lse[:, :, :64]

    assert finite_results(*inputs)[1].dtype == torch.float64
    assert torch.autograd.gradcheck(finite_results, inputs, fast_mode=True)


def test_softmax_of_two_keys_by_hand():
    q = torch.zeros(1, 1, 1, 16)
    q[..., 0] = 1
    k = torch.zeros(1, 1, 2, 16)
    k[0, 0, 1, 0] = math.log(3)
    v = torch.zeros(1, 1, 2, 16)
    v[0, 0, 1] = 8
    out, lse = saccade.attention(q, k, v, scale=1.0, return_lse=True)
    torch.testing.assert_close(out, torch.full_like(out, 6.0), rtol=1e-6, atol=0)
    torch.testing.assert_close(lse, torch.full_like(lse, math.log(4)), rtol=1e-6, atol=0)

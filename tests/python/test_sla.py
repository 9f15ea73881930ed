"""Routing and linear attention against plain torch in float64."""

import pytest
import torch

import saccade
from dense_reference import FORWARD_CAP, GRADIENT_CAP, expand_tiles, relative_error
from problems import DTYPES, LAYOUTS, make_problem, random_tiles

ops = torch.ops.saccade
MAPS = ("softmax", "elu_plus_one", "relu", "hedgehog")


def make_weights(problem, seed=1):
    """W of queries and keys: identities with noise."""
    generator = torch.Generator().manual_seed(seed)
    head_dim = problem.q.shape[3]
    return [
        torch.eye(head_dim) + 0.1 * torch.randn(heads, head_dim, head_dim, generator=generator)
        for heads in (problem.q.shape[1], problem.k.shape[1])
    ]


def features(x, feature_map, weight=None):
    if feature_map == "softmax":
        return x.softmax(-1)
    if feature_map == "elu_plus_one":
        return torch.nn.functional.elu(x) + 1
    if feature_map == "relu":
        return x.relu()
    y = x @ weight.mT
    return torch.cat([y, -y], -1).softmax(-1)


def plain_linear_attention(q, k, v, feature_map, weights=(None, None), tiles=None, epsilon=0.0):
    """In float64, by way of all pairs of tokens."""
    q, k, v = q.double(), k.double(), v.double()
    weights = [w.double() if w is not None else None for w in weights]
    phi_q = features(q, feature_map, weights[0])
    phi_k = features(k, feature_map, weights[1])
    groups = q.shape[1] // k.shape[1]
    phi_k, v = phi_k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    pairs = phi_q @ phi_k.mT
    if tiles is not None:
        pairs = pairs * expand_tiles(tiles)
    denominator = epsilon + pairs.sum(-1, keepdim=True)
    return pairs @ v / torch.where(denominator == 0, torch.inf, denominator)


def linear_case(dtype=torch.float32, feature_map="softmax", layout="bhsd"):
    problem = make_problem(
        batch=2, q_heads=4, k_heads=2, q_len=200, k_len=330, head_dim=32, dtype=dtype, layout=layout
    )
    tiles = random_tiles(problem, 0.6, 64, 64)
    weights = make_weights(problem) if feature_map == "hedgehog" else [None, None]
    return problem, tiles, weights


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("feature_map", MAPS)
def test_linear_attention_and_its_gradients(feature_map, dtype, layout):
    problem, tiles, weights = linear_case(dtype, feature_map, layout)
    leaves = [x.detach().requires_grad_() for x in (problem.q, problem.k, problem.v)]
    leaves += [w.requires_grad_() for w in weights if w is not None]
    q, k, v, *used_weights = leaves
    used_weights = used_weights or [None, None]
    expected = plain_linear_attention(q, k, v, feature_map, used_weights, tiles, 1e-3)
    expected_gradients = torch.autograd.grad(expected, leaves, problem.dout.double())

    swap = (lambda x: x.transpose(1, 2)) if layout == "bshd" else (lambda x: x)
    out = saccade.linear_attention(
        *(swap(x) for x in (q, k, v)),
        tiles=tiles,
        feature_map=feature_map,
        q_weight=used_weights[0],
        k_weight=used_weights[1],
        epsilon=1e-3,
        layout=layout,
    )
    gradients = torch.autograd.grad(swap(out), leaves, problem.dout)
    assert out.dtype == dtype
    assert out.shape == swap(q).shape
    assert relative_error(swap(out), expected) <= FORWARD_CAP[dtype]
    for got, want in zip(gradients, expected_gradients, strict=True):
        # Four times: delta is made of an out that was rounded, and cancels in part.
        assert relative_error(got, want.double()) <= 4 * GRADIENT_CAP[dtype]


def test_every_query_meets_every_key_without_a_mask():
    problem, _, _ = linear_case()
    inputs = problem.q, problem.k, problem.v
    expected = plain_linear_attention(*inputs, "softmax")
    assert relative_error(saccade.linear_attention(*inputs), expected) <= 1e-5


def test_what_lies_beyond_the_lengths_is_never_read():
    problem, _, _ = linear_case()
    lens = torch.tensor([150, 200], dtype=torch.int32)
    poisoned = [x.clone() for x in (problem.q, problem.k, problem.v)]
    for x in poisoned:
        x[0, :, 150:] = torch.nan
        x[1, :, 200:] = torch.nan
    out = saccade.linear_attention(*poisoned, q_lens=lens, k_lens=lens)
    assert out.isfinite().all()
    assert (out[0, :, 150:] == 0).all()
    first = [x[:1, :, :150] for x in poisoned]
    assert torch.equal(out[:1, :, :150], saccade.linear_attention(*first))


def test_rows_without_an_active_tile_are_zero_in_both_directions():
    problem, tiles, _ = linear_case()
    dense = tiles.to_dense()
    dense[:, :, 1] = False
    tiles = saccade.TileMask.from_dense(dense, 200, 330, 64, 64)
    inputs = [x.detach().requires_grad_() for x in (problem.q, problem.k, problem.v)]
    out = saccade.linear_attention(*inputs, tiles=tiles)
    dq, dk, dv = torch.autograd.grad(out, inputs, problem.dout)
    assert (out[:, :, 64:128] == 0).all()
    assert (dq[:, :, 64:128] == 0).all()
    assert all(x.isfinite().all() for x in (out, dq, dk, dv))


@pytest.mark.parametrize("feature_map", MAPS)
def test_both_branches_are_the_two_of_them(feature_map):
    problem, marginal, weights = linear_case(feature_map=feature_map)
    critical = saccade.TileMask(marginal.grid, (~marginal).words)
    options = {"feature_map": feature_map, "q_weight": weights[0], "k_weight": weights[1]}
    inputs = [x.detach().requires_grad_() for x in (problem.q, problem.k, problem.v)]
    out, linear_out = saccade.sparse_linear_attention(
        *inputs, critical=critical, marginal=marginal, scale=0.3, **options
    )
    other_out = saccade.attention(*inputs, tiles=critical, scale=0.3)
    other_linear = saccade.linear_attention(*inputs, tiles=marginal, **options)
    assert torch.equal(out, other_out)
    assert torch.equal(linear_out, other_linear)
    got = torch.autograd.grad((out * 2 + linear_out.sin()).sum(), inputs)
    expected = torch.autograd.grad((other_out * 2 + other_linear.sin()).sum(), inputs)
    for a, b in zip(got, expected, strict=True):
        assert relative_error(a, b.double()) <= 1e-6


def test_one_branch_alone_may_be_differentiated():
    problem, marginal, _ = linear_case()
    q = problem.q.requires_grad_()
    branches = saccade.sparse_linear_attention(
        q, problem.k, problem.v, critical=~marginal, marginal=marginal
    )
    alone = (
        saccade.attention(q, problem.k, problem.v, tiles=~marginal),
        saccade.linear_attention(q, problem.k, problem.v, tiles=marginal),
    )
    for got, expected in zip(branches, alone, strict=True):
        (dq,) = torch.autograd.grad(got, q, problem.dout, retain_graph=True)
        (expected_dq,) = torch.autograd.grad(expected, q, problem.dout)
        assert relative_error(dq, expected_dq.double()) <= 1e-6


def test_gradcheck_of_the_reference(monkeypatch):
    monkeypatch.setenv("SACCADE_BACKEND", "reference")
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, 2, 9, 16, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    )
    weight = torch.randn(2, 16, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    full = saccade.TileMask.full(1, 2, 9, 9, 64, 64)

    def both(q, k, v, weight):
        return saccade.sparse_linear_attention(
            *(q, k, v),
            critical=full,
            feature_map="hedgehog",
            q_weight=weight,
            k_weight=weight,
            epsilon=0.1,
        )

    assert torch.autograd.gradcheck(both, (q, k, v, weight), fast_mode=True)


@pytest.mark.parametrize("feature_map", MAPS)
def test_opcheck(feature_map):
    problem, marginal, weights = linear_case(feature_map=feature_map)
    q, k, v = (x.detach().requires_grad_() for x in (problem.q, problem.k, problem.v))
    lens = torch.tensor([200, 100], dtype=torch.int32)
    options = (feature_map, 0.1, 64, 64)
    rest = (lens, lens, *weights)
    torch.library.opcheck(ops.linear_forward.default, (q, k, v, marginal.words, *rest, *options))
    critical = (~marginal).words
    sparse = (q, k, v, critical, marginal.words, *rest, 0.2, *options)
    torch.library.opcheck(ops.sparse_linear_forward.default, sparse)
    q, k, v = (x.detach() for x in (q, k, v))
    out = ops.linear_forward(q, k, v, marginal.words, *rest, *options)
    backward = (q, k, v, out, problem.dout, marginal.words, *rest, *options)
    torch.library.opcheck(ops.linear_backward.default, backward)
    out, lse, linear_out = ops.sparse_linear_forward(
        q, k, v, critical, marginal.words, *rest, 0.2, *options
    )
    results = (out, lse, linear_out, problem.dout, None, problem.dout)
    torch.library.opcheck(
        ops.sparse_linear_backward.default,
        (q, k, v, *results, critical, marginal.words, *rest, 0.2, *options),
    )


def test_opcheck_of_routing():
    problem, _, _ = linear_case()
    torch.library.opcheck(ops.pool_tiles.default, (problem.q, None, 64))
    means = ops.pool_tiles(problem.q, None, 64), ops.pool_tiles(problem.k, None, 64)
    torch.library.opcheck(ops.select_tiles.default, (*means, 200, 330))


def test_compiled_without_a_graph_break():
    problem, _, _ = linear_case()

    def sla(q, k, v):
        critical, marginal = saccade.select_tiles(q, k, critical=1, negligible=1)
        out, linear = saccade.sparse_linear_attention(q, k, v, critical=critical, marginal=marginal)
        return out + 0.5 * linear

    inputs = [x.detach().requires_grad_() for x in (problem.q, problem.k, problem.v)]
    eager = sla(*inputs)
    compiled = torch.compile(sla, fullgraph=True, backend="aot_eager")(*inputs)
    assert torch.equal(compiled, eager)
    for got, expected in zip(
        torch.autograd.grad(compiled.sum(), inputs),
        torch.autograd.grad(eager.sum(), inputs),
        strict=True,
    ):
        assert torch.equal(got, expected)


# Routing


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_means_of_tiles_divide_by_the_true_count(layout, dtype):
    problem = make_problem(q_len=150, head_dim=16, dtype=dtype, layout=layout)
    x = problem.q.transpose(1, 2) if layout == "bshd" else problem.q
    means = saccade.pool_tiles(x, layout=layout)
    assert means.shape == (1, 2, 3, 16)
    assert means.dtype == torch.float32
    for tile, rows in enumerate((slice(0, 64), slice(64, 128), slice(128, 150))):
        expected = problem.q[:, :, rows].double().mean(2)
        torch.testing.assert_close(means[:, :, tile].double(), expected, rtol=1e-5, atol=1e-5)


def test_the_three_classes():
    problem = make_problem(batch=1, q_heads=2, k_heads=1, q_len=300, k_len=64 * 20, head_dim=16)
    critical, marginal = saccade.select_tiles(problem.q, problem.k, critical=0.1, negligible=0.25)
    q, k = saccade.pool_tiles(problem.q), saccade.pool_tiles(problem.k)
    ranks = (q.double() @ k.double().mT).argsort(-1, descending=True)
    kinds = torch.zeros(ranks.shape, dtype=torch.int64)
    kinds.scatter_(-1, ranks[..., :2], 2)  # a tenth of 20 tiles
    kinds.scatter_(-1, ranks[..., 2:15], 1)  # all but a quarter
    assert torch.equal(critical.to_dense(), kinds == 2)
    assert torch.equal(marginal.to_dense(), kinds == 1)


def test_counts_mass_and_protected_tiles():
    problem = make_problem(batch=1, q_heads=1, k_heads=1, q_len=64, k_len=640, head_dim=16)
    counted, rest = saccade.select_tiles(problem.q, problem.k, critical=3, negligible=0)
    assert counted.to_dense().sum() == 3
    assert rest.to_dense().sum() == 7
    all_mass, _ = saccade.select_tiles(problem.q, problem.k, critical=1, critical_mass=1.0)
    assert all_mass.to_dense().all()
    last = torch.zeros(1, 1, 1, 10, dtype=torch.bool)
    last[..., 9] = True
    always = saccade.TileMask.from_dense(last, 64, 640, 64, 64)
    protected, _ = saccade.select_tiles(problem.q, problem.k, critical=2, always=always)
    assert protected.to_dense()[..., 9].all()
    assert protected.to_dense().sum() == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critical": 1.5}, "1.5"),
        ({"critical": True}, "share of the tiles .* got True"),
        ({"negligible": -1}, "at least 0, got -1"),
        ({"critical_mass": 2.0}, "critical_mass"),
        ({"block_q": 32}, "block_q must be 64 or 128, got 32"),
    ],
)
def test_bad_shares_are_named(options, message):
    problem = make_problem(q_len=64, k_len=64, head_dim=16)
    with pytest.raises(saccade.InvalidArgument, match=message):
        saccade.select_tiles(problem.q, problem.k, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feature_map": "cosine"}, "softmax, elu_plus_one, relu or hedgehog, got 'cosine'"),
        ({"feature_map": "hedgehog"}, "q_weight"),
        ({"epsilon": -1.0}, "epsilon"),
    ],
)
def test_bad_options_of_linear_attention_are_named(options, message):
    problem = make_problem(q_len=64, k_len=64, head_dim=16)
    with pytest.raises(saccade.InvalidArgument, match=message):
        saccade.linear_attention(problem.q, problem.k, problem.v, **options)


def test_masks_of_two_grids_are_refused():
    problem, marginal, _ = linear_case()
    with pytest.raises(saccade.InvalidArgument, match="one grid"):
        saccade.sparse_linear_attention(
            *(problem.q, problem.k, problem.v),
            critical=random_tiles(problem, 0.5, 128, 64),
            marginal=marginal,
        )

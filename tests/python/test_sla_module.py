"""saccade.SparseLinearAttention against plain torch in float64."""

import copy
import warnings

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import saccade
from dense_reference import FORWARD_CAP, GRADIENT_CAP, expand_tiles, relative_error
from problems import LAYOUTS, make_problem
from test_sla import MAPS, plain_linear_attention

SHAPE = {"batch": 2, "q_heads": 4, "k_heads": 2, "q_len": 200, "k_len": 700, "head_dim": 32}


def make_module(seed=0, **options):
    """With parameters as after training, so that every part of the output counts."""
    options = {"critical": 0.3, "negligible": 0.2, "heads": 4, "k_heads": 2} | options
    if options.get("feature_map") == "hedgehog":
        options.setdefault("ties_weights", False)
    module = saccade.SparseLinearAttention(32, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module


def leaves_of(problem, dtype=None):
    return [
        x.detach().to(dtype or x.dtype).requires_grad_() for x in (problem.q, problem.k, problem.v)
    ]


def plain_sla(module, q, k, v, **lens):
    """The equations, by way of all pairs of tokens; the tiles are those of select_tiles."""
    critical, marginal = saccade.select_tiles(
        q,
        k,
        critical=module.critical,
        negligible=module.negligible,
        block_q=module.block_q,
        block_k=module.block_k,
        **lens,
    )
    groups = q.shape[1] // k.shape[1]
    logits = q.double() @ k.double().repeat_interleave(groups, 1).mT * q.shape[3] ** -0.5
    logits = logits.masked_fill(~expand_tiles(critical), -torch.inf)
    out = logits.softmax(-1) @ v.double().repeat_interleave(groups, 1)
    k_weight = module.q_weight if module.k_weight is None else module.k_weight
    linear_out = plain_linear_attention(
        *(q, k, v, module.feature_map, (module.q_weight, k_weight)),
        tiles=marginal if module.linear == "marginal" else None,
        epsilon=module.epsilon,
    )
    return out + linear_out @ module.proj_l.weight.double().mT + module.proj_l.bias.double()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("linear", ["marginal", "all"])
@pytest.mark.parametrize("feature_map", MAPS)
def test_the_output_and_all_gradients(feature_map, linear, layout):
    problem = make_problem(**SHAPE, layout=layout)
    module = make_module(feature_map=feature_map, linear=linear, layout=layout)
    leaves = [*leaves_of(problem), *module.parameters()]
    expected = plain_sla(module, *leaves[:3])
    expected_gradients = torch.autograd.grad(expected, leaves, problem.dout.double())

    swap = (lambda x: x.transpose(1, 2)) if layout == "bshd" else (lambda x: x)
    out = swap(module(*(swap(x) for x in leaves[:3])))
    assert relative_error(out, expected) <= FORWARD_CAP[torch.float32]
    gradients = torch.autograd.grad(out, leaves, problem.dout)
    assert len(gradients) == (7 if feature_map == "hedgehog" else 5)
    for got, want in zip(gradients, expected_gradients, strict=True):
        assert want.norm() > 0
        # Four times: delta is made of an out that was rounded, and cancels in part.
        assert relative_error(got, want.double()) <= 4 * GRADIENT_CAP[torch.float32]


def test_tied_weights_get_the_gradients_of_both():
    problem = make_problem(**SHAPE | {"k_heads": 4})
    tied = make_module(feature_map="hedgehog", k_heads=4, ties_weights=True)
    free = make_module(feature_map="hedgehog", k_heads=4, ties_weights=False)
    with torch.no_grad():
        free.q_weight.copy_(tied.q_weight)
        free.k_weight.copy_(tied.q_weight)
        free.proj_l.load_state_dict(tied.proj_l.state_dict())
    for module in (tied, free):
        module(problem.q, problem.k, problem.v).backward(problem.dout)
    both = free.q_weight.grad + free.k_weight.grad
    assert relative_error(tied.q_weight.grad, both.double()) <= 1e-6
    assert tied.k_weight is None


def test_an_untrained_module_is_sparse_attention_alone():
    problem = make_problem(**SHAPE)
    module = saccade.SparseLinearAttention(32, critical=0.3)
    critical, _ = saccade.select_tiles(problem.q, problem.k, critical=0.3)
    inputs = problem.q, problem.k, problem.v
    assert torch.equal(module(*inputs), saccade.attention(*inputs, tiles=critical))
    assert module.statistics[0].sparsity == critical.sparsity()
    hedgehog = saccade.SparseLinearAttention(32, feature_map="hedgehog", heads=4)
    assert torch.equal(hedgehog.q_weight, torch.eye(32).expand(4, 32, 32))


def test_gradcheck_of_the_reference(monkeypatch):
    monkeypatch.setenv("SACCADE_BACKEND", "reference")
    module = saccade.SparseLinearAttention(
        16, critical=1, negligible=1, feature_map="hedgehog", heads=2, epsilon=0.1
    ).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator).double()
    q, k, v = (
        torch.randn(1, 2, length, 16, generator=generator, dtype=torch.float64, requires_grad=True)
        for length in (5, 130, 130)
    )

    def run(q, k, v, *parameters):
        names = [name for name, _ in module.named_parameters()]
        return torch.func.functional_call(
            module, dict(zip(names, parameters, strict=True)), (q, k, v)
        )

    assert torch.autograd.gradcheck(run, (q, k, v, *module.parameters()), fast_mode=True)


@pytest.mark.parametrize("feature_map", ["softmax", "hedgehog"])
def test_compiled_without_a_graph_break(feature_map):
    problem = make_problem(**SHAPE)
    module = make_module(feature_map=feature_map)
    leaves = [*leaves_of(problem), *module.parameters()]
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for got, expected in zip(
        torch.autograd.grad(compiled(*leaves[:3]), leaves, problem.dout),
        torch.autograd.grad(module(*leaves[:3]), leaves, problem.dout),
        strict=True,
    ):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_changes_no_bit(use_reentrant):
    problem = make_problem(**SHAPE)
    module = make_module(refresh=4)
    leaves = [*leaves_of(problem), *module.parameters()]
    module(*leaves[:3]).backward(problem.dout)
    plain = [leaf.grad for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    # step=1: under autograd nothing is kept from the call at step 0
    with torch.no_grad():
        module(problem.q.flip(2), problem.k.flip(2), problem.v, step=0)

    def run(q, k, v):
        return module(q, k, v, step=1)

    if use_reentrant:  # its first pass runs without autograd, and must choose what the second does
        module.refresh = 1
    checkpoint(run, *leaves[:3], use_reentrant=use_reentrant).backward(problem.dout)
    for leaf, expected in zip(leaves, plain, strict=True):
        assert torch.equal(leaf.grad, expected)


def test_autocast_is_that_of_attention():
    problem = make_problem(**SHAPE)
    module = make_module()
    q, k, v = leaves_of(problem)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(q, k.bfloat16(), v)  # rotary embedding and norms leave dtypes mixed
    assert out.dtype == torch.bfloat16
    out.backward(problem.dout.bfloat16())
    assert q.grad.dtype == torch.float32
    assert module.proj_l.weight.grad.dtype == torch.float32
    expected = plain_sla(module, *(x.detach().bfloat16() for x in (q, k, v)))
    # proj_l too rounds its input, its weight and its result.
    assert relative_error(out, expected) <= 3 * FORWARD_CAP[torch.bfloat16]


def test_a_float32_projection_serves_bfloat16_inputs():
    problem = make_problem(**SHAPE, dtype=torch.bfloat16)
    module = make_module(feature_map="hedgehog")
    inputs = problem.q, problem.k, problem.v
    out = module(*inputs)
    assert out.dtype == torch.bfloat16
    assert relative_error(out, plain_sla(module, *inputs)) <= 2 * FORWARD_CAP[torch.bfloat16]
    rounded = copy.deepcopy(module).bfloat16()
    assert rounded(*inputs).dtype == torch.bfloat16


def test_what_lies_beyond_the_lengths_is_never_read():
    problem = make_problem(**SHAPE)
    module = make_module()
    q_lens = torch.tensor([150, 200], dtype=torch.int32)
    k_lens = torch.tensor([500, 700], dtype=torch.int32)
    q, k, v = (x.clone() for x in (problem.q, problem.k, problem.v))
    q[0, :, 150:] = torch.nan
    k[0, :, 500:] = torch.nan
    v[0, :, 500:] = torch.nan
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = module(*leaves, q_lens=q_lens, k_lens=k_lens)
    assert (out[0, :, 150:] == 0).all()
    alone = module(problem.q[:1, :, :150], problem.k[:1, :, :500], problem.v[:1, :, :500])
    assert relative_error(out[:1, :, :150], alone.double()) <= 1e-6
    gradients = torch.autograd.grad(out.sum(), [*leaves, *module.parameters()])
    assert all(g.isfinite().all() for g in gradients)


# Which tiles


def test_every_head_may_have_a_share_of_its_own():
    problem = make_problem(**SHAPE)
    module = make_module(critical=[1, 0.3, 1.0, 3], negligible=0)
    module(problem.q, problem.k, problem.v)
    q_tiles, k_tiles = 4, 11
    counts = module.statistics[0].active
    assert counts.tolist() == [[q_tiles * n for n in (1, 3, k_tiles, 3)]] * 2
    for head, share in enumerate(module.critical):
        mine, rest = saccade.select_tiles(problem.q, problem.k, critical=share, negligible=0)
        both, marginal = saccade.select_tiles(
            problem.q, problem.k, critical=module.critical, negligible=0
        )
        assert torch.equal(both.words[:, head], mine.words[:, head])
        assert torch.equal(marginal.words[:, head], rest.words[:, head])


def test_shares_may_be_a_function_of_sigma():
    problem = make_problem(**SHAPE)
    module = make_module(critical=lambda sigma: 5 if sigma > 0.8 else 1)
    inputs = problem.q, problem.k, problem.v
    for sigma, count in ((1.0, 5), (0.5, 1)):
        module(*inputs, sigma=sigma)
        assert module.statistics[0].active[0, 0] == 4 * count
    with pytest.raises(saccade.InvalidArgument, match="sigma"):
        module(*inputs)


def test_protected_tokens_are_critical_and_count():
    problem = make_problem(**SHAPE | {"q_len": 300})
    module = make_module(critical=3, protected_keys=[(690, 700)], protected_queries=[(70, 71)])
    module(problem.q, problem.k, problem.v)
    assert module.statistics[0].active[0, 0] == 4 * 3 + 11
    with torch.no_grad():
        module.refresh = 2
        module(problem.q, problem.k, problem.v, step=0)
    critical = module.states["cond"].critical.to_dense()
    assert critical[..., 10].all()
    assert critical[:, :, 1].all()
    module.protected_keys = ((0, 701),)
    with pytest.raises(saccade.InvalidArgument, match=r"\[0, 701\).*<= 700"):
        module(problem.q, problem.k, problem.v)


def test_top_p_adds_to_top_k():
    problem = make_problem(**SHAPE)
    module = make_module(critical=1, critical_mass=1.0)
    module(problem.q, problem.k, problem.v)
    assert module.statistics[0].sparsity == 0


def test_classes_are_kept_until_they_are_refreshed():
    first, second = make_problem(**SHAPE), make_problem(**SHAPE, seed=1)
    module = make_module(refresh=3, critical=2)

    def classes(problem, step, branch="cond"):
        with torch.no_grad():
            module(problem.q, problem.k, problem.v, step=step, branch=branch)
        return module.states[branch].critical.words

    old = classes(first, 0)
    new = saccade.select_tiles(second.q, second.k, critical=2)[0].words
    assert not torch.equal(old, new)
    assert torch.equal(classes(second, 0, "uncond"), new)  # a branch has its own
    assert torch.equal(classes(second, 1), old)
    assert torch.equal(classes(second, 2), old)
    assert torch.equal(classes(second, 3), new)
    assert torch.equal(classes(first, 4), new)
    assert torch.equal(classes(first, 4), old)  # the same step again is another generation
    assert torch.equal(classes(second, 5), old)
    assert torch.equal(classes(second, 2), new)  # a step that falls too
    shorter = make_problem(**SHAPE | {"k_len": 640})
    assert classes(shorter, 3).shape == (2, 4, 4, 1)
    with torch.no_grad(), pytest.raises(saccade.InvalidArgument, match="step"):
        module(first.q, first.k, first.v)
    module.reset()
    assert not module.states
    assert not module.statistics


def test_short_attention_is_dense_and_says_so_once():
    problem = make_problem(**SHAPE)
    module = make_module(min_length=701)
    inputs = problem.q, problem.k, problem.v
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        out = [module(*inputs) for _ in range(3)][-1]
    assert [str(w.message) for w in seen] == [
        "attention over 700 tokens is dense: SLA begins at min_length=701"
    ]
    assert torch.equal(out, saccade.attention(*inputs))
    assert module.statistics[0].is_dense
    module.min_length = 700
    assert not torch.equal(module(*inputs), out)


# State dicts and errors


def test_the_keys_are_those_of_the_public_module():
    module = make_module()
    assert {name: tuple(x.shape) for name, x in module.state_dict().items()} == {
        "proj_l.weight": (32, 32),
        "proj_l.bias": (32,),
    }
    public = {"proj_l.weight": torch.rand(32, 32), "proj_l.bias": torch.rand(32)}
    module.load_state_dict(public)
    assert torch.equal(module.proj_l.weight, public["proj_l.weight"])
    with pytest.raises(RuntimeError, match=r"Missing key.*proj_l.bias"):
        module.load_state_dict({"proj_l.weight": torch.rand(32, 32)})
    with pytest.raises(RuntimeError, match=r"size mismatch for proj_l.bias"):
        module.load_state_dict(public | {"proj_l.bias": torch.rand(64)})
    hedgehog = make_module(feature_map="hedgehog").state_dict()
    assert set(hedgehog) == {"q_weight", "k_weight", "proj_l.weight", "proj_l.bias"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"critical": 1.5}, "1.5"),
        ({"critical": [0.1, 0.2]}, "one share or 4, one for each query head, got 2"),
        ({"negligible": -1}, "at least 0, got -1"),
        ({"critical_mass": 1.5}, "critical_mass"),
        ({"feature_map": "cosine"}, "elu_plus_one, relu or hedgehog, got 'cosine'"),
        ({"feature_map": "hedgehog", "heads": None}, "give heads"),
        ({"feature_map": "hedgehog", "ties_weights": True}, "ties_weights=False"),
        ({"linear": "none"}, "marginal or all, got 'none'"),
        ({"block_q": 32}, "64 or 128, got 32"),
        ({"refresh": 0}, "refresh must be at least 1, got 0"),
        ({"min_length": -1}, "min_length must be at least 0, got -1"),
        ({"epsilon": -0.1}, "epsilon must be at least 0, got -0.1"),
        ({"layout": "sbhd"}, "sbhd"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(saccade.InvalidArgument, match=message):
        make_module(**options)


def test_a_wrong_head_size_is_named():
    problem = make_problem(head_dim=64)
    with pytest.raises(saccade.InvalidArgument, match="head_dim 32, got 64"):
        make_module()(problem.q, problem.k, problem.v)

"""torch.ops.saccade as torch sees it: schemas, fake kernels, compilation, threads."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import saccade
from problems import DTYPES, LAYOUTS, make_problem, random_problem, random_tiles

ops = torch.ops.saccade


def forward_arguments(dtype=torch.float32, layout="bhsd", requires_grad=False):
    problem = make_problem(batch=2, q_heads=4, k_heads=2, q_len=130, dtype=dtype, layout=layout)
    tiles = random_tiles(problem, 0.5)
    lens = torch.tensor([130, 100], dtype=torch.int32)
    inputs = [x.detach().requires_grad_(requires_grad) for x in (problem.q, problem.k, problem.v)]
    return problem, (*inputs, tiles.words, lens, lens, 0.25, 128, 64)


def backward_arguments(dtype=torch.float32, layout="bhsd"):
    problem, (q, k, v, *rest) = forward_arguments(dtype, layout)
    out, lse = ops.attention_forward(q, k, v, *rest)
    return q, k, v, out, lse, problem.dout, problem.dlse, *rest


def merge_arguments(requires_grad=False):
    generator = torch.Generator().manual_seed(0)
    outs = [torch.randn(2, 5, 3, 16, generator=generator).transpose(1, 2) for _ in range(3)]
    lses = [torch.randn(2, 3, 5, generator=generator) for _ in range(3)]
    for x in outs + lses:
        x.requires_grad_(requires_grad)
    return outs, lses


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_attention_forward(dtype, layout):
    _, arguments = forward_arguments(dtype, layout, requires_grad=True)
    torch.library.opcheck(ops.attention_forward.default, arguments)


def test_opcheck_attention_forward_by_default_and_without_gradient():
    x = torch.randn(1, 1, 8, 16)
    torch.library.opcheck(ops.attention_forward.default, (x, x, x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck_attention_backward(dtype, layout):
    torch.library.opcheck(ops.attention_backward.default, backward_arguments(dtype, layout))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_opcheck_merge_partials(requires_grad):
    torch.library.opcheck(ops.merge_partials.default, merge_arguments(requires_grad))


def test_opcheck_merge_partials_backward():
    outs, lses = merge_arguments()
    out, lse = ops.merge_partials(outs, lses)
    arguments = (outs, lses, out, lse, torch.ones_like(out), torch.ones_like(lse))
    torch.library.opcheck(ops.merge_partials_backward.default, arguments)


def test_opcheck_info():
    torch.library.opcheck(ops.info.default, (), test_utils="test_schema")


def layout_of(results):
    flat = torch.utils._pytree.tree_leaves(results)
    return [(x.shape, x.stride(), x.dtype) for x in flat]


def strided_inputs():
    """The cases of empty_like: dense, permuted, sliced, sliced and permuted, expanded."""
    dense = torch.randn(2, 3, 40, 16)
    return {
        "dense": dense,
        "permuted": torch.randn(2, 40, 3, 16).transpose(1, 2),
        "sliced": torch.randn(2, 3, 80, 16)[:, :, ::2],
        "packed": torch.randn(2, 40, 3, 3, 16)[:, :, 1].transpose(1, 2),
        "expanded": dense[:1, :1].expand(2, 3, 40, 16),
    }


def on_meta(arguments):
    return torch.utils._pytree.tree_map_only(
        torch.Tensor,
        lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta"),
        arguments,
    )


@pytest.mark.parametrize("strides", strided_inputs())
@pytest.mark.parametrize("dtype", DTYPES)
def test_fake_kernels_predict_shapes_strides_and_dtypes(strides, dtype):
    x = strided_inputs()[strides].to(dtype)
    out, lse = results = ops.attention_forward(x, x, x)
    backward = (x, x, x, out, lse, out)
    merge = ([x, out], [lse, lse])
    merge_backward = (*merge, *ops.merge_partials(*merge), out)
    assert layout_of(results) == layout_of(ops.attention_forward(*on_meta((x, x, x))))
    for op, arguments in (
        (ops.attention_backward, backward),
        (ops.merge_partials, merge),
        (ops.merge_partials_backward, merge_backward),
    ):
        assert layout_of(op(*arguments)) == layout_of(op(*on_meta(arguments)))


def attend_in_halves(q, k, v, tiles, layout):
    """Everything public that has a gradient, with ordinary operations around it."""
    out, lse = saccade.attention(q * 2, k, v, tiles=tiles, layout=layout, return_lse=True)
    other, other_lse = saccade.attention(q, k.cos(), v, layout=layout, return_lse=True)
    merged, merged_lse = saccade.merge_partials([out, other], [lse, other_lse], layout=layout)
    return merged.sin(), merged_lse


@pytest.mark.parametrize(("layout", "dynamic"), [("bhsd", False), ("bshd", True)])
def test_compiled_whole(layout, dynamic):
    torch.compiler.reset()
    compiled = torch.compile(attend_in_halves, fullgraph=True, dynamic=dynamic)
    for q_len in (100, 170):
        problem = make_problem(q_heads=4, k_heads=2, q_len=q_len, layout=layout)
        tiles = random_tiles(problem, 0.5)
        inputs = [x.requires_grad_() for x in (problem.q, problem.k, problem.v)]
        arguments = [x.transpose(1, 2) if layout == "bshd" else x for x in inputs]
        results = []
        for function in (attend_in_halves, compiled):
            out, lse = function(*arguments, tiles, layout)
            results.append((out, lse, *torch.autograd.grad(out.sum() + lse.sum(), inputs)))
        for eager, traced in zip(*results, strict=True):
            torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-5)


def test_compiled_errors_keep_their_text():
    torch.compiler.reset()
    compiled = torch.compile(saccade.attention, fullgraph=True)
    x = torch.randn(1, 1, 8, 24)
    with pytest.raises(RuntimeError, match=r"saccade\.Unsupported: .*head_dim"):
        compiled(x, x, x)


def in_fresh_process(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_torch_threads_do_the_work(threads):
    """No pool beside torch's: attention adds no thread to those of a torch operator."""
    result = in_fresh_process(f"""
import os, torch, saccade
torch.set_num_threads({threads})
torch.ones(1 << 22).exp_()
before = len(os.listdir("/proc/self/task"))
x = torch.randn(1, 8, 256, 64, requires_grad=True)
saccade.attention(x, x, x).sum().backward()
saccade.merge_partials([x, x], [torch.zeros(1, 8, 256)] * 2)
print(before, len(os.listdir("/proc/self/task")))
""")
    before, after = map(int, result.stdout.split())
    assert after == before


def test_results_do_not_depend_on_the_number_of_threads():
    problem = make_problem(q_heads=6, k_heads=2, q_len=390, k_len=300, dtype=torch.bfloat16)
    problem.tiles = random_tiles(problem, 0.4)
    results = []
    usual = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(problem.run())
    finally:
        torch.set_num_threads(usual)
    for other in results[1:]:
        for name in ("out", "lse", "dq", "dk", "dv"):
            assert torch.equal(getattr(other, name), getattr(results[0], name))


def test_two_threads_call_at_once():
    problems = [random_problem(seed) for seed in range(5000, 5016)]
    alone = [problem.run() for problem in problems]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda problem: problem.run(), problems))
    for a, b in zip(alone, together, strict=True):
        for name in ("out", "lse", "dq", "dk", "dv"):
            torch.testing.assert_close(
                getattr(a, name), getattr(b, name), rtol=0, atol=0, equal_nan=True
            )


def test_mask_words_may_not_change_before_backward():
    problem = make_problem()
    tiles = random_tiles(problem, 0.5)
    out = saccade.attention(problem.q.requires_grad_(), problem.k, problem.v, tiles=tiles)
    tiles.words.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()

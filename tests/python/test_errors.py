"""Bad input: the class of the exception, and a message with the limit and the value."""

import re

import pytest
import torch

import saccade
from saccade import InvalidArgument, TileMask, Unsupported


def tensor(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(*shape, dtype=dtype, device=device)


def lens(*values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype)


def call(**changes):
    """A good call, but for `changes`."""
    arguments = {
        "q": tensor(2, 4, 100, 32),
        "k": tensor(2, 2, 90, 32),
        "v": tensor(2, 2, 90, 32),
    } | changes
    return saccade.attention(**arguments)


def test_the_unchanged_call_is_good():
    assert call().shape == (2, 4, 100, 32)
    assert call(tiles=TileMask.full(2, 4, 100, 90)).shape == (2, 4, 100, 32)
    assert call(q_lens=lens(0, 100), k_lens=lens(90, 0)).shape == (2, 4, 100, 32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        # shapes
        ({"q": tensor(100, 32)}, ["q", "4 dimensions", "(100, 32)"]),
        ({"k": tensor(1, 2, 2, 90, 32)}, ["k", "4 dimensions", "(1, 2, 2, 90, 32)"]),
        ({"q": tensor(3, 4, 100, 32)}, ["k", "[2, 2, 90, 32]", "[3, 2, 90, 32]"]),
        ({"k": tensor(2, 3, 90, 32), "v": tensor(2, 3, 90, 32)}, ["head", "4", "3"]),
        ({"v": tensor(2, 2, 91, 32)}, ["v", "91", "90"]),
        ({"k": tensor(2, 2, 90, 48)}, ["k", "48", "32"]),
        ({"q": tensor(2, 4, 0, 32)}, ["q", "0"]),
        ({"k": tensor(2, 2, 0, 32), "v": tensor(2, 2, 0, 32)}, ["k", "0"]),
        ({"q": tensor(0, 4, 100, 32)}, ["batch", "0"]),
        # dtypes
        ({"k": tensor(2, 2, 90, 32, dtype=torch.float16)}, ["k", "f16", "f32"]),
        ({"v": tensor(2, 2, 90, 32, dtype=torch.bfloat16)}, ["v", "bf16", "f32"]),
        # strides
        ({"q": tensor(2, 4, 32, 100).mT}, ["q", "stride", "100"]),
        ({"v": tensor(2, 2, 90, 64)[..., ::2]}, ["v", "stride", "2"]),
        # lengths
        ({"q_lens": lens(1, 101)}, ["q_lens", "101", "100"]),
        ({"k_lens": lens(-1, 3)}, ["k_lens", "-1"]),
        ({"q_lens": lens(1, 2, 3)}, ["q_lens", "3", "2"]),
        ({"q_lens": lens(1)}, ["q_lens", "1", "2"]),
        ({"k_lens": lens()}, ["k_lens", "0", "2"]),
        ({"k_lens": tensor(2, 1, dtype=torch.int32)}, ["k_lens"]),
        ({"q_lens": tensor(2)}, ["q_lens", "f32", "i32"]),
        # numbers and names
        ({"scale": float("nan")}, ["scale", "nan"]),
        ({"scale": float("inf")}, ["scale", "inf"]),
        ({"layout": "sbhd"}, ["layout", '"bhsd" or "bshd"', "'sbhd'"]),
        # masks
        ({"tiles": torch.ones(2, 4, 1, 2).bool()}, ["TileMask", "Tensor", "from_dense"]),
        ({"tiles": TileMask.full(2, 4, 100, 91)}, ["k_len 91", "k_len 90"]),
        ({"tiles": TileMask.full(2, 2, 100, 90)}, ["heads 2", "heads 4"]),
        ({"tiles": TileMask.full(1, 4, 100, 90)}, ["batch 1", "batch 2"]),
    ],
)
def test_invalid_argument(changes, words):
    with pytest.raises(InvalidArgument) as error:
        call(**changes)
    for word in words:
        assert word in str(error.value)
    assert "saccade.InvalidArgument" not in str(error.value), "the prefix is for the C ABI only"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({x: tensor(2, 2, 90, 24) for x in "qkv"}, ["head_dim", "24", "16"]),
        ({x: tensor(2, 2, 90, 272) for x in "qkv"}, ["head_dim", "272", "256"]),
        ({x: tensor(2, 2, 90, 32, dtype=torch.float64) for x in "qkv"}, ["f64", "reference"]),
        ({x: tensor(2, 2, 90, 32, dtype=torch.int8) for x in "qkv"}, ["q", "Char", "float16"]),
        ({"q_lens": lens(1, 2, dtype=torch.int64)}, ["q_lens", "Long", "int32"]),
        ({x: tensor(2, 2, 90, 32, device="meta") for x in "qkv"}, ["q", "meta", "cpu"]),
        ({"v": tensor(2, 2, 90, 32, device="meta")}, ["v", "meta", "cpu"]),
        ({"tiles": TileMask.full(2, 4, 100, 90, device="meta")}, ["tiles", "meta", "cpu"]),
        ({"k_lens": tensor(2, dtype=torch.int32, device="meta")}, ["k_lens", "meta", "cpu"]),
    ],
)
def test_unsupported(changes, words):
    with pytest.raises(Unsupported) as error:
        call(**changes)
    for word in words:
        assert word in str(error.value)


def test_classes():
    assert issubclass(InvalidArgument, ValueError)
    assert issubclass(Unsupported, NotImplementedError)
    assert issubclass(InvalidArgument, saccade.Error)
    assert issubclass(saccade.FileError, saccade.Error)
    assert issubclass(saccade.FileError, OSError)
    assert issubclass(Unsupported, saccade.Error)


def test_unknown_backend(monkeypatch):
    monkeypatch.setenv("SACCADE_BACKEND", "abacus")
    with pytest.raises(InvalidArgument, match=r"abacus.*reference, cpu"):
        call()


def test_the_operator_names_the_class_in_its_message():
    """What users of torch.ops and of compiled code see."""
    bad = tensor(2, 2, 90, 24)
    with pytest.raises(RuntimeError, match=r"^saccade\.Unsupported: .*head_dim"):
        torch.ops.saccade.attention_forward(bad, bad, bad)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (torch.zeros(2, 4, 1, 2).long(), r"\[2, 4, 1, 1\].*got \[2, 4, 1, 2\]"),
        (torch.zeros(2, 4, 1, 0).long(), r"\[2, 4, 1, 1\].*got \[2, 4, 1, 0\]"),
        (torch.zeros(2, 4, 1, 1).int(), "int64.*got dtype Int"),
        (torch.zeros(1, 1, 1, 1).long().expand(2, 4, 1, 1), "contiguous"),
    ],
)
def test_the_operator_checks_words(words, message):
    q, k = tensor(2, 4, 100, 32), tensor(2, 2, 90, 32)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.saccade.attention_forward(q, k, k, words)


@pytest.mark.parametrize("blocks", [(0, 64), (128, 96), (2**40 + 64, 64), (-64, 64)])
def test_the_operator_checks_block_sizes(blocks):
    x = tensor(1, 1, 64, 16)
    with pytest.raises(RuntimeError, match=r"saccade\.InvalidArgument: .*64 or 128"):
        torch.ops.saccade.attention_forward(x, x, x, block_q=blocks[0], block_k=blocks[1])


@pytest.mark.parametrize(
    ("outs", "lses", "words"),
    [
        ([], [], ["at least one", "0 outs"]),
        ([tensor(1, 2, 3, 16)], [], ["1 outs", "0 lses"]),
        ([tensor(1, 2, 3, 16)], [tensor(1, 2, 4)], ["lse", "4", "3"]),
        ([tensor(2, 3, 16)], [tensor(2, 3)], ["outs[0]", "4 dimensions", "(2, 3, 16)"]),
        (
            [tensor(1, 2, 3, 16), tensor(1, 2, 3, 32)],
            [tensor(1, 2, 3)] * 2,
            ["16", "32"],
        ),
        (
            [tensor(1, 2, 3, 16), tensor(1, 2, 3, 16, dtype=torch.float16)],
            [tensor(1, 2, 3)] * 2,
            ["f16", "f32"],
        ),
        ([tensor(1, 2, 3, 16)], [tensor(1, 2, 3, dtype=torch.float16)], ["lse", "f16", "f32"]),
        ([tensor(1, 2, 16, 3).mT], [tensor(1, 2, 3)], ["stride"]),
    ],
)
def test_merge_partials(outs, lses, words):
    with pytest.raises(InvalidArgument) as error:
        saccade.merge_partials(outs, lses)
    for word in words:
        assert re.search(re.escape(word), str(error.value)), str(error.value)


def test_merge_partials_on_another_device():
    out, lse = tensor(1, 2, 3, 16), tensor(1, 2, 3)
    with pytest.raises(Unsupported, match=r"lses\[1\] is on meta"):
        saccade.merge_partials([out, out], [lse, lse.to("meta")])
    with pytest.raises(InvalidArgument, match="layout"):
        saccade.merge_partials([out], [lse], layout="hbsd")


def test_second_derivatives():
    x = torch.randn(1, 1, 8, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(saccade.attention(x, x, x).sum(), x, create_graph=True)
    with pytest.raises(Unsupported, match="first derivatives only"):
        gradient.sum().backward()
    outs, lses = [x], [torch.zeros(1, 1, 8)]
    out, _ = saccade.merge_partials(outs, lses)
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(Unsupported, match="first derivatives only"):
        gradient.sum().backward()

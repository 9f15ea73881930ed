"""The safetensors package and saccade read each other's files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

# Written by C++ byte for byte: tests/core/files/safetensors_writer_test.cc.
SMALL_FILE = Path(__file__).parents[1] / "data" / "small.safetensors"
METADATA = {"note": 'a "quote",\n an é'}
TENSORS = {
    "q": torch.tensor([[0, 1, -2], [0.5, float("nan"), 65504]]),
    "scalar": torch.tensor(1 / 3, dtype=torch.float64),
    "half": torch.tensor([[1, -2]], dtype=torch.float16),
    "brain": torch.tensor([[1], [-2]], dtype=torch.bfloat16),
    "steps": torch.tensor([1, -2, 3], dtype=torch.int32),
    "empty": torch.empty(0, 4),
    'words "é"': torch.tensor([[-1, 7]]),
    "flags": torch.tensor([True, False, True]),
}


def inspect(path):
    command = [Path(sys.executable).with_name("saccade"), "inspect", "--json", path]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return report["metadata"], {tensor["name"]: tensor for tensor in report["tensors"]}


def test_both_write_the_same_bytes():
    assert save(TENSORS, METADATA) == SMALL_FILE.read_bytes()


def test_the_package_reads_what_saccade_writes():
    with safe_open(SMALL_FILE, framework="pt") as file:
        assert file.metadata() == METADATA
        assert set(file.keys()) == set(TENSORS)
        for name, tensor in TENSORS.items():
            torch.testing.assert_close(
                file.get_tensor(name), tensor, rtol=0, atol=0, equal_nan=True
            )


DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}


@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 5), (1, 2, 1, 3, 1, 1)])
def test_saccade_reads_every_dtype(tmp_path, shape):
    path = tmp_path / "all.safetensors"
    values = {name: torch.ones(shape).to(dtype) for name, dtype in DTYPES.items()}
    save_file(values, path, {"": "x" * 1000, "é": "\t"})
    metadata, tensors = inspect(path)
    assert metadata == {"": "x" * 1000, "é": "\t"}
    assert set(tensors) == set(DTYPES)
    for name, tensor in tensors.items():
        assert tensor["dtype"] == name
        assert tensor["shape"] == list(shape)
        assert tensor["bytes"] == values[name].nbytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_saccade_measures_values(tmp_path, dtype):
    path = tmp_path / "values.safetensors"
    values = torch.randn(37, 1001, generator=torch.Generator().manual_seed(1)).to(dtype)
    save_file({"x": values}, path)
    x = inspect(path)[1]["x"]
    assert x["min"] == values.min().item()
    assert x["max"] == values.max().item()
    # Both sum in double, in their own order: 2 n^2 roundings of values whose mean is below 1.
    assert x["mean"] == pytest.approx(values.double().mean().item(), abs=37037 * 2**-52)
    assert x["nan"] == 0

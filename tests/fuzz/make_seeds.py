"""Writes the first inputs of every fuzzer: make_seeds.py FOLDER makes FOLDER/NAME/*."""

import json
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


def safetensors_file(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds() -> Iterator[bytes]:
    yield safetensors_file({})
    yield safetensors_file({"__metadata__": {"a": "b", "c": ""}})
    yield safetensors_file({"x": tensor("F32", [2, 1], 0, 8)}, bytes(8))
    yield safetensors_file({"x": tensor("F4", [2], 0, 1), "y": tensor("BF16", [], 1, 3)}, bytes(3))
    yield safetensors_file(
        {"x": tensor("I64", [0, 7], 0, 0), "y": tensor("BOOL", [1], 0, 1)}, b"\1"
    )
    sizes = {"U8": 1, "F8_E4M3": 1, "I16": 2, "F16": 2, "I32": 4, "C64": 8, "F64": 8, "U64": 8}
    header, end = {"__metadata__": {"é": '\n"'}}, 0
    for dtype, size in sizes.items():
        header[dtype], end = tensor(dtype, [1, 2], end, end + 2 * size), end + 2 * size
    yield safetensors_file(header, bytes(range(end)))


def schedule_seeds() -> Iterator[bytes]:
    errors = {"relative_l1": [0.1, "inf"], "rmse": [0.2, 1], "cosine": [1, -1]}
    every_field = {
        "version": 1,
        "threshold": "-inf",
        "thresholds": [-1, -2.5, -3],
        "layer_thresholds": [
            {"layers": "a.*", "threshold": -4},
            {"layers": "a.[01].b", "thresholds": [-1, -2, -3]},
            {"layers": "a.?.b", "head_thresholds": [-5, -6]},
            {"layers": "a.2.b", "step_head_thresholds": [[-1, -2], [-3, -4], [-5, "-inf"]]},
        ],
        "dense_first_steps": 1,
        "dense_last_steps": 1,
        "dense_first_sigma": 0.9,
        "dense_last_sigma": 0.1,
        "num_steps": 3,
        "dense_layers": ["a.[!1]*"],
        "min_length": 100,
        "must_do_queries": [[0, 64]],
        "must_do_keys": [[0, 64], [80, 100]],
        "must_skip_queries": [[280, 300]],
        "must_skip_keys": [[100, 200]],
        "fingerprint": {
            "model": "m",
            "layers": 2,
            "heads": 2,
            "head_dim": 64,
            "length": 300,
            "steps": 3,
            "rule": "threshold",
            "measure": "largest_weight",
            "reference": "running",
            "order": "linear",
            "block_q": 128,
            "block_k": 64,
            "token_order": "frames",
            "saccade_version": "0",
        },
        "calibration": {
            "target": "error",
            "targets": [0.1, 0.2, 0.3],
            "seed": 7,
            "sparsity": 0.5,
            "work": 3,
            "layers": [{"layer": "a.0.b", "errors": errors}],
            "verification": [{"seed": 8, "sparsity": 0.25, "errors": errors}],
        },
    }
    yield json.dumps(every_field).encode()
    yield b'{"version": 1}'
    yield b'{"version": 1, "head_thresholds": [-1, -2]}'


def state_seeds() -> Iterator[bytes]:
    def state(name: bytes, position: list[int], mask: list[int], parts: int = 0) -> bytes:
        numbers = struct.pack(f"<{len(position)}q", *position)
        return bytes([parts, 0, len(name)]) + name + numbers + struct.pack(f"<{len(mask)}Q", *mask)

    yield state(b"cond", [1, 2, 100, 128, 128, 64, 7, 0], [3, 2])
    yield state("blocks.0.\n/\u00fc".encode(), [2, 1, 1, 65 * 64, 64, 64, 0, 1], [2**64 - 1, 1] * 2)
    yield state(b"a/cond", [1, 1, 128, 129, 128, 128, 7, 0], [1], parts=2 | 4 | 8 | 16 | 32)
    yield state(b"x" * 255, [1] * 7, [])


def trace_seeds() -> Iterator[bytes]:
    trace = {
        "version": 1,
        "model": "m",
        "saccade_version": "0",
        "num_steps": 4,
        "token_order": "frames",
        "scale": 0.5,
        "video": {"frames": 1, "height": 2, "width": 2, "prefix": 0, "suffix": 0},
        "calls": [{"step": s, "branch": "c", "layer": "a", "sigma": 1 - s / 4} for s in (0, 3)],
    }
    yield bytes(6) + json.dumps(trace).encode()
    del trace["scale"], trace["video"]
    yield bytes(6) + json.dumps(trace).encode()
    yield bytes([2] * 6) + json.dumps(trace).encode()


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "safetensors": safetensors_seeds,
    "schedule": schedule_seeds,
    "state": state_seeds,
    "trace": trace_seeds,
}


def main(folder: Path) -> None:
    for name, seeds in SEEDS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (folder / name / f"seed_{number}").write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

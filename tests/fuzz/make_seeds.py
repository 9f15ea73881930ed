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


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {"safetensors": safetensors_seeds}


def main(folder: Path) -> None:
    for name, seeds in SEEDS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (folder / name / f"seed_{number}").write_bytes(seed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

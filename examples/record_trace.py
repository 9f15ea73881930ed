"""Records the trace of the demo model that the tests replay.

    python examples/record_trace.py [--model examples/demo_model] [--out tests/data/demo.trace]

A clip of 8 frames of 32 x 32 pixels (512 tokens, an eighth of what the model was trained on) in 12
steps; one head of two layers at five of the steps, in f16: 1.9 MiB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import saccade
from saccade.demo.load import load_model
from saccade.demo.models import Sampling, Shape

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=str(ROOT / "examples/demo_model"))
    parser.add_argument("--out", type=Path, default=ROOT / "tests/data/demo.trace")
    arguments = parser.parse_args()

    model = load_model(arguments.model, torch.device("cpu"))
    with saccade.record(
        model.pipeline,
        arguments.out,
        layers=("*.blocks.1.attn1", "*.blocks.2.attn1"),
        steps=(0, 2, 5, 8, 11),
        branches=("cond",),
        heads=(2,),
        dtype="f16",
    ) as recorder:
        model.draw(
            "ring cyan striped left waves",
            seed=0,
            shape=Shape(frames=8, height=32, width=32),
            sampling=Sampling(steps=12, guidance=3.0),
            on_step=lambda step: print(f"step {step + 1} of 12, {recorder.calls} calls recorded"),
        )
    print(f"{arguments.out}: {arguments.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()

"""Calibrates the demo model: examples/demo_model/schedule.json.

    python examples/calibrate_demo_model.py [--error 0.12] [--slope 0.04]

One dense clip, and another one, held out, on which the schedule is verified. Takes a few minutes on
two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import saccade
from saccade.demo.load import find_device, load_model
from saccade.demo.models import Shape

SEED, HELD_OUT_SEED = 103, 104
PROMPTS = {SEED: "triangle magenta plain left checks", HELD_OUT_SEED: "disc blue plain right waves"}


def main() -> None:
    arguments = parse_arguments()
    model = load_model(str(arguments.model), find_device(None, ["cpu"]))
    defaults = model.defaults

    def run(_pipeline: object, seed: int) -> None:
        model.draw(PROMPTS[seed], seed, Shape(), defaults.sampling, lambda _step: None)

    schedule = saccade.calibrate(
        model.pipeline,
        run,
        error=arguments.error,
        slope=arguments.slope,
        schedule=saccade.LiteSchedule(dense_first_steps=arguments.dense_first_steps),
        seed=SEED,
        verify_with=[HELD_OUT_SEED],
        measure=arguments.measure,
        order="alternating",
        block_q=64,
        block_k=64,
    )
    path = arguments.out or arguments.model / "schedule.json"
    schedule.save(path)
    print(f"{path}: {schedule.calibration.sparsity:.1%} skipped on the calibrated clip")
    for one in schedule.calibration.verification:
        print(
            f"held-out seed {one.seed}: {one.sparsity:.1%} skipped, "
            f"relative L1 error of the last step {one.errors.relative_l1[-1]:.4f}"
        )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=Path("examples/demo_model"))
    parser.add_argument("--out", type=Path, help="default: schedule.json beside the model")
    parser.add_argument("--error", type=float, default=0.12)
    parser.add_argument("--slope", type=float, default=0.04)
    parser.add_argument("--measure", default="largest_weight")
    parser.add_argument("--dense-first-steps", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()

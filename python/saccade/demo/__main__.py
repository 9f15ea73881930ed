"""``python -m saccade.demo``: draws clips dense and with LiteAttention, and compares them."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

import saccade

if TYPE_CHECKING:
    from .draw import Request
    from .models import Model
    from .sweep import Sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = _parser().parse_args(given)
    try:
        _run(arguments, shlex.join(["python", "-m", "saccade.demo", *given]))
    except ImportError as error:
        what = " ".join(str(error).split()).rstrip(".")
        _complain(f"{what}; `pip install saccade[demo]` installs all that the demo needs")
        return 2
    except (saccade.Error, OSError) as error:
        _complain(str(error))
        return 2
    except KeyboardInterrupt:
        _complain("interrupted; a study goes on from here when it is started again")
        return 130
    return 0


def _run(arguments: argparse.Namespace, command: str) -> None:
    # These import diffusers, which takes seconds: --help and mistyped options do without.
    from ..report import summarise, write_report
    from .draw import mismatch_of
    from .load import find_device, load_model
    from .progress import ProgressBars, summary_table
    from .results_file import ResultsFile
    from .story import contents_of
    from .sweep import run_sweep
    from .warm_up import warm_up

    console = Console()
    arguments.out.mkdir(parents=True, exist_ok=True)
    backends = [backend["name"] for backend in saccade.info()["backends"] if backend["available"]]
    with console.status("loading the model"):
        model = load_model(arguments.model, find_device(arguments.device, backends))
    sweep, first = _plan(arguments, model)
    if model.schedule is not None:
        mismatch = mismatch_of(model.schedule, model, first)
        sweep = replace(sweep, has_calibrated=mismatch is None)
        if mismatch is not None:
            console.print(f"without the calibrated schedule: {mismatch}", soft_wrap=True)
    requests = list(sweep.requests(first))  # all of them checked, before minutes of drawing
    with console.status("warming up"):
        native = warm_up(model, first)
    results = ResultsFile(arguments.out, model.fingerprint) if arguments.study else None
    with ProgressBars(console, len(requests)) as bars:
        drawn = run_sweep(model, requests, bars, results)
    contents = contents_of(model, drawn, first, native, command)
    console.print(summary_table(summarise(contents.measurements)))
    console.print(f"report: {write_report(contents, arguments.out)}", soft_wrap=True)


def _plan(arguments: argparse.Namespace, model: Model) -> tuple[Sweep, Request]:
    """What to draw. Raises InvalidArgument for what the model or the methods cannot do."""
    from .draw import Request
    from .models import Sampling, Shape
    from .sweep import Sweep

    defaults = model.defaults
    prompts = tuple(arguments.prompt or defaults.prompts[: None if arguments.study else 2])
    if not prompts:
        raise saccade.InvalidArgument(f"{model.name} has no prompts of its own; give --prompt")
    for prompt in prompts:
        model.check_prompt(prompt)
    shape = Shape(arguments.frames, arguments.height, arguments.width)
    model.check_shape(shape)
    thresholds = defaults.study_thresholds if arguments.study else defaults.thresholds
    sweep = Sweep(
        prompts=prompts,
        thresholds=tuple(dict.fromkeys(arguments.threshold or thresholds)),
        has_random=arguments.study,
        long_frames=(defaults.long_frames,) if arguments.study else (),
    )
    first = Request(
        method="dense",
        threshold=None,
        prompt=prompts[0],
        seed=arguments.seed,
        shape=shape,
        sampling=Sampling(
            defaults.sampling.steps if arguments.steps is None else arguments.steps,
            defaults.sampling.guidance if arguments.guidance is None else arguments.guidance,
        ),
        dense_first_steps=(
            defaults.dense_first_steps
            if arguments.dense_first_steps is None
            else arguments.dense_first_steps
        ),
        block_q=arguments.block_q,
        block_k=arguments.block_k,
        token_order=arguments.token_order,
    )
    return sweep, first


def _token_order(text: str) -> str | tuple[int, ...]:
    """A box such as 4x4x4 as numbers; whether the order exists is Request's to say."""
    parts = text.split("x")
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else text


def _complain(message: str) -> None:
    Console(stderr=True).print(
        Text.assemble(("error: ", "bold red"), message), soft_wrap=True, highlight=False
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m saccade.demo",
        description="Draws clips with dense attention and with LiteAttention, from the same noise, "
        "and writes a report of speed and quality.",
    )
    add = parser.add_argument
    add(
        "--model",
        default="examples/demo_model",
        metavar="PATH_OR_ID",
        help="the demo model's folder, or a Wan checkpoint in diffusers format (%(default)s)",
    )
    add(
        "--out",
        type=Path,
        default=Path("build/demo"),
        metavar="DIR",
        help="folder of report.html and report.json (%(default)s)",
    )
    add(
        "--study",
        action="store_true",
        help="the full sweep: more clips, thresholds and frames, and random tiles; goes on from "
        "DIR/results.jsonl",
    )
    add(
        "--prompt",
        action="append",
        metavar="TEXT",
        help='repeatable; for the demo model five words, such as "ring blue striped left waves"',
    )
    add(
        "--threshold",
        action="append",
        type=float,
        metavar="LOG2",
        help="repeatable; at most 0, closer to 0 skips more (write --threshold=-inf for -inf)",
    )
    add("--seed", type=int, default=0, help="of the first clip; each next one is 1 more")
    add("--steps", type=int, help="denoising steps")
    add("--dense-first-steps", type=int, help="steps at which LiteAttention skips nothing yet")
    add("--guidance", type=float, help="scale of classifier-free guidance; 1 is none")
    add("--frames", type=int)
    add("--height", type=int, help="pixels")
    add("--width", type=int, help="pixels")
    add("--block-q", type=int, default=64, help="tile height, 64 or 128 (%(default)s)")
    add("--block-k", type=int, default=64, help="tile width, 64 or 128 (%(default)s)")
    add(
        "--token-order",
        type=_token_order,
        default="frames",
        metavar="ORDER",
        help="frames, space_time or a box of tokens such as 4x4x4 (%(default)s)",
    )
    add("--device", help="as torch calls it; the default is the best that saccade can use")
    return parser  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

"""What LiteAttention saves by leaving values out at the step that finds them negligible.

    python benchmarks/lite_skipped_values.py [--threads 2] [--rounds 15]

One call of LiteAttention over 4096 tokens in which half of the tiles of every row are negligible,
all of them still to be computed, with and without ``skips_values``; beside it a threshold so low
that nothing is left out, which is what asking costs, and the step after, which does not compute
these tiles at all. Calls take turns; a row gives the median of its times, and of their ratios to
the call without, which is that of the same round.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import saccade

HEADS, LENGTH = 4, 4096
SCHEDULE = saccade.LiteSchedule(-8.0, dense_first_steps=0)
NOTHING = saccade.LiteSchedule(-1000.0, dense_first_steps=0)


def half_negligible(head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The second half of the keys has logits that are 40 lower."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, LENGTH, head_dim, generator=generator) for _ in range(3))
    q[..., 0] = 4
    k[..., 0] = 0
    k[:, :, LENGTH // 2 :, 0] = -10 * head_dim**0.5
    return q.to(dtype), k.to(dtype), v.to(dtype)


def calls(
    inputs: tuple[Tensor, Tensor, Tensor], block_k: int
) -> dict[str, Callable[[], saccade.LiteAttention]]:
    def first_step(
        schedule: saccade.LiteSchedule, skips_values: bool
    ) -> Callable[[], saccade.LiteAttention]:
        def run() -> saccade.LiteAttention:
            lite = saccade.LiteAttention(schedule, block_k=block_k, skips_values=skips_values)
            lite(*inputs, step=0)
            return lite

        return run

    started = first_step(SCHEDULE, False)()
    assert started.mask().sparsity() == 0.5

    def step_after() -> saccade.LiteAttention:
        started(*inputs, step=1)
        return started

    return {
        "without": first_step(SCHEDULE, False),
        "skips_values": first_step(SCHEDULE, True),
        "nothing to skip": first_step(NOTHING, True),
        "the step after": step_after,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{HEADS} heads, {LENGTH} tokens, {options.threads} threads, {options.rounds} rounds")
    for dtype in (torch.float32, torch.bfloat16):
        for head_dim, block_k in ((64, 64), (128, 64), (128, 128)):
            timed = calls(half_negligible(head_dim, dtype), block_k)
            times: dict[str, list[float]] = {name: [] for name in timed}
            for _ in range(options.rounds + 1):
                for name, run in timed.items():
                    begin = time.perf_counter()
                    run()
                    times[name].append(1e3 * (time.perf_counter() - begin))
            print(f"{dtype}, head_dim {head_dim}, tiles 128 x {block_k}")
            for name, of_name in times.items():
                pairs = zip(of_name[1:], times["without"][1:], strict=True)
                ratio = statistics.median(one / other for one, other in pairs)
                print(f"  {name:16}{statistics.median(of_name[1:]):9.2f} ms  {ratio:.3f}")


if __name__ == "__main__":
    main()

"""kill -9 while a file is saved: whoever reads it finds the old file or the new one, whole."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import saccade

KILLS = 200


def state_after(steps: int) -> saccade.LiteAttention:
    lite = saccade.LiteAttention(threshold=-6.0, reference="lse")
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        lite(*torch.randn(3, 1, 4, 3000, 16, generator=generator), step=step)
    return lite


def is_saved_state(lite: saccade.LiteAttention, path: Path) -> bool:
    loaded = saccade.LiteAttention(threshold=-6.0, reference="lse")
    saccade.load_state(loaded, path)
    found, expected = loaded.states["cond"], lite.states["cond"]
    return found.step == expected.step and all(
        torch.equal(a, b) for a, b in zip(found.tensors, expected.tensors, strict=True)
    )


def schedule_of(threshold: float) -> saccade.LiteSchedule:
    return saccade.LiteSchedule(thresholds=(threshold,) * 3000)


def is_saved_schedule(schedule: saccade.LiteSchedule, path: Path) -> bool:
    return saccade.LiteSchedule.load(path) == schedule


def kill_while_it_saves(save: Callable[[int], None], first: int, moment: random.Random) -> None:
    """Kills a process that saves ``first``, the other one, ``first``, ... at a random moment."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for i in range(1_000_000):
                os.write(writing, b".")
                save((first + i) % 2)
        finally:
            os._exit(1)
    os.close(writing)
    for _ in range(moment.randint(1, 3)):  # of so many saves, all but the last one are done
        os.read(reading, 1)
    time.sleep(moment.uniform(0, 0.005))
    os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the process failed to save"


@pytest.mark.parametrize("what", ["state", "schedule"])
def test_a_process_killed_while_it_saves_leaves_a_whole_file(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "state":
        contents, is_saved = [state_after(1), state_after(2)], is_saved_state

        def save(i: int) -> None:
            saccade.save_state(contents[i], path)
    else:
        contents, is_saved = [schedule_of(-1.0), schedule_of(-2.0)], is_saved_schedule

        def save(i: int) -> None:
            contents[i].save(path)

    save(0)
    moment = random.Random(0)
    found, interrupted = [0], 0
    for _ in range(KILLS):
        kill_while_it_saves(save, 1 - found[-1], moment)
        which = [is_saved(content, path) for content in contents]
        assert sum(which) == 1
        found.append(which.index(True))
        for partial in set(tmp_path.iterdir()) - {path}:
            interrupted += 1
            partial.unlink()
    assert set(found) == {0, 1}
    assert interrupted > 0  # or nothing was tested

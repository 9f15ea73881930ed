"""Where a transformer is in its denoising trajectory."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from .. import _ops
from ..baselines import VideoLayout
from ..errors import InvalidArgument, call

_BRANCH_WITHOUT_CONTEXT = "cond"
TRAINING = "training"  # in place of a branch


class Trajectory:
    """Step and branch of the transformer call under way, from the timesteps of the calls so far.

    Steps count from 0 and rise as the timestep falls; a timestep that rises begins a generation.
    ``sigmas`` holds the noise level of each step of the current or last generation: its timestep
    over ``num_train_timesteps``. ``video`` says what the tokens of the call under way are, where
    that is known.

    ``is_strict``: whether attention depends on the steps before. Where it does not, calls in any
    order are legal: training, losses of several samples at one timestep.
    """

    def __init__(self, num_train_timesteps: int, *, is_strict: bool = True) -> None:
        self.is_strict = is_strict
        self._current: tuple[int, str] | None = None
        self._num_train_timesteps = num_train_timesteps
        self.sigmas: list[float] = []
        self.video: VideoLayout | None = None
        self.forget()

    def forget(self) -> None:
        """The next call begins a generation."""
        self._timesteps: list[float] = []
        self._finished: set[str] = set()  # branches that finished a call at the last timestep

    def begin_call(self, timestep: float, context: str | None) -> bool:
        """Enters a call; returns whether it begins a generation.

        ``context`` names the guidance branch; without one it is "cond". A branch is called once at
        each step. At step 0 a second call in a context begins a generation, as that of one step
        does. Raises InvalidArgument for any other second call: its tiles would be those of the
        first; unless it is strict, such a call begins a generation too. A call that was not ended,
        because it failed, does not count.
        """
        branch = context or _BRANCH_WITHOUT_CONTEXT
        step = call(_ops.lite_step_number, [*self._timesteps, timestep])
        finished = self._finished if [timestep] == self._timesteps[-1:] else set()
        if branch in finished and not self.is_strict:
            self.forget()
            return self.begin_call(timestep, context)
        if branch in finished:
            if context is None:
                _refuse_second_call_without_context(timestep)
            if step > 0:
                _refuse_second_call(branch, timestep, step)
            finished = set()
        self._timesteps = [timestep] if step == 0 else [*self._timesteps, timestep]
        self._finished = finished
        self._current = step, branch
        self.sigmas = [*self.sigmas[:step], timestep / self._num_train_timesteps]
        return step == 0 and not finished

    def begin_training_call(self, timestep: float) -> None:
        """Enters a call under autograd, which is no part of a generation."""
        self.forget()
        self._current = 0, TRAINING
        self.sigmas = [timestep / self._num_train_timesteps]

    def end_call(self) -> None:
        if self._current is not None:
            self._finished.add(self._current[1])
        self._current = None

    @property
    def position(self) -> dict[str, list[Any]]:
        """What ``move_to`` needs. Raises InvalidArgument while a call is under way."""
        if self._current is not None:
            raise InvalidArgument("a state is saved between calls of the transformer, not in one")
        return {"timesteps": list(self._timesteps), "finished": sorted(self._finished)}

    def move_to(self, timesteps: list[float], finished: list[str]) -> None:
        """The next call comes after those at ``timesteps``, the last one by these branches."""
        self._timesteps, self._finished = list(timesteps), set(finished)
        self.sigmas = [t / self._num_train_timesteps for t, _ in groupby(timesteps)]
        self._current = None

    def now(self, path: str) -> tuple[int, str, float] | tuple[None, str, None]:
        """Step, branch and sigma of the call under way, for the layer at ``path``.

        Outside of calls, as where activations are recomputed, they are unknown; this is refused if
        the trajectory is strict.
        """
        if self._current is None and not self.is_strict:
            return None, TRAINING, None
        if self._current is None:
            raise InvalidArgument(
                f"{path} was called outside its transformer, which is where the timestep is read; "
                "call the transformer, or saccade.disable it first"
            )
        return *self._current, self.sigmas[-1]


def _refuse_second_call_without_context(timestep: float) -> None:
    raise InvalidArgument(
        f"the transformer was called twice at timestep {timestep:g} without a cache context, so "
        "its guidance branches cannot be told apart; wrap each of them in `with "
        'transformer.cache_context("cond"):` or `with transformer.cache_context("uncond"):`'
    )


def _refuse_second_call(branch: str, timestep: float, step: int) -> None:
    raise InvalidArgument(
        f"branch {branch!r} was called twice at timestep {timestep:g} (step {step}), but has one "
        "call at each step; give every branch its own name in transformer.cache_context(name). "
        "For a new generation that begins at this timestep, saccade.disable and saccade.enable "
        "the model again"
    )

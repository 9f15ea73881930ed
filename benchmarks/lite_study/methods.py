"""What is compared, a line each: LiteAttention's rules and orders, token orders, the baselines.

A method has levels, from the one that skips least to the one that skips most. All methods leave the
same first steps dense.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import saccade

if TYPE_CHECKING:
    from .study import Study

BLOCKS = {"block_q": 64, "block_k": 64}

THRESHOLDS = (-5.0, -3.0, -2.0, -1.0, -0.5, -0.25, -0.1, -0.05, -0.02, -0.005, -0.001)
LSE_THRESHOLDS = (-12.0, -11.0, -10.0, -9.5, -9.0, -8.5, -8.0, -7.0)
MASS_THRESHOLDS = (-12.0, -10.0, -9.0, -8.0, -7.0, -6.5, -6.0, -5.5, -5.0)
BUDGETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
MASS_BUDGETS = (0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32)
SCALES = (16.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.25)
OUTPUT_ERRORS = (0.03, 0.05, 0.075, 0.1, 0.13, 0.17)
SPARSITIES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
SHARES = (0.99, 0.97, 0.95, *(x / 100 for x in range(90, 0, -5)))
DECAYS = (7.5, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0)


@dataclass(frozen=True)
class Method:
    """``arguments(study, level)``: those of saccade.enable."""

    name: str
    levels: tuple[float, ...]
    arguments: Callable[[Study, float], dict[str, Any]]


def lite(name: str, levels: tuple[float, ...] = THRESHOLDS, **options: Any) -> Method:
    """One threshold for all, and options of saccade.enable."""

    def arguments(study: Study, threshold: float) -> dict[str, Any]:
        return {"schedule": schedule_of(study, threshold), **BLOCKS, **options}

    return Method(name, levels, arguments)


def budget(name: str, levels: tuple[float, ...], **options: Any) -> Method:
    """The budget decides alone: every tile may go, if it can pay for it."""

    def arguments(study: Study, mass: float) -> dict[str, Any]:
        return {"schedule": schedule_of(study, 0.0), "mass_budget": mass, **BLOCKS, **options}

    return Method(name, levels, arguments)


def scaled(name: str, levels: tuple[float, ...] = SCALES) -> Method:
    """The thresholds of the model's own schedule, multiplied."""

    def arguments(study: Study, scale: float) -> dict[str, Any]:
        return {"schedule": scale_thresholds(study.model.schedule, scale)}

    return Method(name, levels, arguments)


def calibrated(
    name: str,
    slope: float,
    levels: tuple[float, ...] = OUTPUT_ERRORS,
    **options: Any,
) -> Method:
    """What saccade.calibrate finds for an output error; thirds of the steps ``slope`` apart."""

    def arguments(study: Study, error: float) -> dict[str, Any]:
        schedule = study.calibrated(
            f"{name}_{error:g}".replace(", ", "_").replace(" ", "_"),
            error=error,
            slope=slope,
            schedule=saccade.LiteSchedule(dense_first_steps=study.dense_first_steps),
            **BLOCKS,
            **options,
        )
        return {"schedule": schedule}

    return Method(name, levels, arguments)


def baseline(name: str, method: str, option: str, levels: tuple[float, ...]) -> Method:
    def arguments(study: Study, level: float) -> dict[str, Any]:
        return {
            "method": method,
            "schedule": schedule_of(study, -float("inf")),
            option: level,
            **BLOCKS,
        }

    return Method(name, levels, arguments)


def schedule_of(study: Study, threshold: float) -> saccade.LiteSchedule:
    return saccade.LiteSchedule(threshold, dense_first_steps=study.dense_first_steps)


def scale_thresholds(schedule: saccade.LiteSchedule, scale: float) -> saccade.LiteSchedule:
    """Thresholds by layer, step and head, all multiplied: above 1 less is skipped."""
    layers = tuple(
        replace(
            layer,
            step_head_thresholds=tuple(
                tuple(scale * threshold for threshold in heads)
                for heads in layer.step_head_thresholds
            ),
        )
        for layer in schedule.layer_thresholds
    )
    return replace(schedule, layer_thresholds=layers)


PAPER = lite("paper")
RULES = (
    PAPER,
    scaled("calibrated, scaled"),
    lite("alternating", order="alternating"),
    lite("radial order", order="radial"),
    lite("reversed", order="reversed"),
    lite("boxes 4x4x4", token_order=(4, 4, 4)),
    lite("boxes 2x4x8", token_order=(2, 4, 8)),
    lite("probes 1/8", reprobe_period=8),
    lite("mean mass", MASS_THRESHOLDS, measure="mean_mass"),
    lite("largest mass", MASS_THRESHOLDS, measure="largest_mass"),
    lite("lse", LSE_THRESHOLDS, reference="lse"),
    lite("lse, probes 1/8", LSE_THRESHOLDS, reference="lse", reprobe_period=8),
    budget("mean mass, budget", MASS_BUDGETS, measure="mean_mass"),
    budget("running, budget", BUDGETS),
    budget("lse, budget", BUDGETS, reference="lse"),
    calibrated("calibrated, flat", slope=0.0),
    calibrated("calibrated, thirds", slope=0.01),
)
BASELINES = (
    baseline("random", "random", "sparsity", SPARSITIES),
    baseline("radial attention", "radial", "decay", DECAYS),
    baseline("SVG", "svg", "share", SHARES),
    baseline("pooled", "pooled", "share", SHARES),
)
METHODS = {method.name: method for method in (*RULES, *BASELINES)}

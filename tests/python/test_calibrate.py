"""saccade.calibrate on tiny models of diffusers: what it finds, records and refuses."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import saccade
from saccade import InvalidArgument, LiteSchedule, Unsupported
from wan_models import call, latents_of, make_pipeline, make_transformer, text_of

STEPS = 5
PATHS = ["blocks.0.attn1", "blocks.1.attn1"]
BLOCKS = {"block_q": 64, "block_k": 64}


def run(pipeline, seed=0, steps=STEPS, frames=5):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt_embeds=text_of(0),
        negative_prompt_embeds=text_of(1),
        latents=latents_of(seed, frames=frames),
        height=128,
        width=128,
        num_frames=4 * frames - 3,
        num_inference_steps=steps,
        guidance_scale=3.0,
        output_type="latent",
    ).frames


def calibrate(pipeline=None, runner=run, **options):
    pipeline = make_pipeline() if pipeline is None else pipeline
    return saccade.calibrate(pipeline, runner, progress=False, **{**BLOCKS, **options})


@pytest.fixture(scope="module")
def schedule():
    return calibrate(verify_with=[1, 2])


def sparsity_with(schedule, seed=0):
    pipeline = make_pipeline()
    saccade.enable(pipeline, schedule=schedule)
    run(pipeline, seed)
    return saccade.summary(pipeline).sparsity


def test_what_is_found(schedule):
    assert [entry.layers for entry in schedule.layer_thresholds] == [f"*{path}" for path in PATHS]
    for entry in schedule.layer_thresholds:
        assert len(entry.step_head_thresholds) == STEPS
        assert {len(heads) for heads in entry.step_head_thresholds} == {2}
        assert entry.step_head_thresholds[-1] == (-math.inf, -math.inf)
    fingerprint = schedule.fingerprint
    assert fingerprint.model.startswith("WanTransformer3DModel ")
    assert dataclasses.astuple(fingerprint)[1:-1] == (
        *(2, 2, 64, 320, STEPS, "threshold"),
        *("largest_weight", "running", "linear", 64, 64, "frames"),
    )
    assert fingerprint.saccade_version == saccade.__version__
    assert LiteSchedule.from_json(schedule.to_json()) == schedule


def test_the_record(schedule):
    record = schedule.calibration
    assert record.target == "error"
    assert record.targets == pytest.approx([0.065, 0.065, 0.075, 0.075, 0.085])
    assert record.seed == 0
    assert 0.05 < record.sparsity < 1
    assert 1 < record.work <= 3.5
    assert [layer.layer for layer in record.layers] == [f"transformer.{path}" for path in PATHS]
    for layer in record.layers:
        errors = layer.errors
        assert errors.relative_l1[0] == 0
        assert max(errors.relative_l1) > 0
        assert all(e <= t for e, t in zip(errors.relative_l1, record.targets, strict=True))
        assert all(0.99 < cosine <= 1 + 1e-9 for cosine in errors.cosine)
    assert [one.seed for one in record.verification] == [1, 2]
    for one in record.verification:
        assert 0.05 < one.sparsity < 1
        assert len(one.errors.relative_l1) == STEPS
        assert one.errors.relative_l1[0] == 0
        assert 0 < one.errors.relative_l1[-1] < 0.5


def test_it_is_used_as_it_is(schedule, tmp_path):
    schedule.save(tmp_path / "schedule.json")
    with_file = sparsity_with(tmp_path / "schedule.json")
    assert with_file == sparsity_with(schedule)
    # Branches take the stricter of their thresholds, and the trajectory is no longer dense.
    assert with_file == pytest.approx(schedule.calibration.sparsity, abs=0.15)


def test_verification_is_what_a_user_would_see(schedule):
    pipeline = make_pipeline()
    outputs = []
    pipeline.transformer.register_forward_hook(lambda *arguments: outputs.append(arguments[2][0]))
    saccade.enable(pipeline, "dense")
    run(pipeline, 1)
    saccade.disable(pipeline)
    dense, outputs[:] = list(outputs), []
    saccade.enable(pipeline, schedule=schedule)
    run(pipeline, 1)
    verified = schedule.calibration.verification[0]
    assert saccade.summary(pipeline).sparsity == verified.sparsity
    last, expected = torch.stack(outputs[-2:]), torch.stack(dense[-2:])
    error = (last - expected).abs().sum() / expected.abs().sum()
    assert verified.errors.relative_l1[-1] == pytest.approx(float(error), rel=1e-4)


def test_a_smaller_error_skips_less():
    loose, strict = (calibrate(error=error, slope=0).calibration for error in (0.2, 1e-6))
    assert strict.sparsity < loose.sparsity
    assert strict.targets == (1e-6,) * STEPS
    each = calibrate(error=[1e-6, 1e-6, 0.2, 0.2, 0.2]).calibration
    assert each.targets == (1e-6, 1e-6, 0.2, 0.2, 0.2)
    assert strict.sparsity < each.sparsity < loose.sparsity


@pytest.mark.parametrize(
    "options",
    [
        {"by_head": False},
        {"reference": "lse"},
        {"measure": "mean_mass"},
        {"order": "alternating"},
        {"token_order": (1, 4, 8)},
        {"schedule": LiteSchedule(dense_first_steps=2, dense_layers="*blocks.1.*")},
    ],
)
def test_options(options):
    pipeline = make_pipeline()
    found = calibrate(pipeline, **options, verify_with=[3])
    assert found.calibration.verification[0].sparsity > 0
    dense_layers = found.dense_layers
    assert len(found.layer_thresholds) == (1 if dense_layers else 2)
    assert all(bool(e.thresholds) == ("by_head" in options) for e in found.layer_thresholds)
    order = options.get("token_order", "frames")
    saccade.enable(pipeline, schedule=found, token_order=order)
    run(pipeline, 0)
    dense = [c.step for c in saccade.summary(pipeline).calls if c.is_dense and "blocks.0" in c.path]
    assert max(dense) == found.dense_first_steps - 1


def test_a_share_of_tiles():
    for sparsity in (0.1, 0.25):
        found = calibrate(sparsity=sparsity)
        assert found.calibration.target == "sparsity"
        assert found.calibration.sparsity >= sparsity
        assert found.calibration.work == 1
        assert not found.layer_thresholds
        assert sparsity_with(found) == pytest.approx(found.calibration.sparsity, abs=0.1)


def test_a_time():
    found = calibrate(speedup=1.01)
    assert found.calibration.target == "time"
    assert 0 <= found.calibration.targets[0] < 1
    with pytest.raises(InvalidArgument, match=r"speedup is 0\.5"):
        calibrate(speedup=0.5)
    with pytest.raises(InvalidArgument, match="is predicted to skip only"):
        calibrate(sparsity=0.99)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({"frames": 6}, {}, "length is 320, not 384"),
        ({"steps": 6}, {}, "steps is 5, not 6"),
        ({"steps": 4}, {}, "steps is 5, not 4"),
        ({}, {"reference": "lse"}, "reference is 'running', not 'lse'"),
        ({}, {"order": "radial"}, "order is 'linear', not 'radial'"),
        ({}, {"measure": "mean_mass"}, "measure is 'largest_weight', not 'mean_mass'"),
        ({}, {"block_q": 128}, "block_q is 64, not 128"),
        ({}, {"block_k": 128}, "block_k is 64, not 128"),
        ({}, {"reprobe_period": 4}, "rule is 'threshold', not 'threshold, re-probing'"),
        ({}, {"mass_budget": 1.0}, "rule is 'threshold', not 'threshold, mass budget'"),
        ({}, {"token_order": "space_time"}, "token_order is 'frames', not 'space_time'"),
    ],
)
def test_another_problem_is_refused(schedule, arguments, options, message):
    pipeline = make_pipeline()

    def use():
        saccade.enable(pipeline, schedule=schedule, **options)
        run(pipeline, **arguments)

    with pytest.raises(InvalidArgument, match=message):
        use()


def test_another_model_is_refused(schedule):
    pipeline = make_pipeline()
    pipeline.transformer = make_transformer(seed=1)
    with pytest.raises(InvalidArgument, match="model is 'WanTransformer3DModel"):
        saccade.enable(pipeline, schedule=schedule)
    pipeline.transformer = make_transformer(layers=3)
    with pytest.raises(InvalidArgument, match="layers is 2, not 3"):
        saccade.enable(pipeline, schedule=schedule)
    older = dataclasses.replace(schedule.fingerprint, saccade_version="0.0.1")
    with pytest.raises(InvalidArgument, match=r"saccade_version is '0\.0\.1', not"):
        saccade.enable(make_pipeline(), schedule=dataclasses.replace(schedule, fingerprint=older))
    # The same weights in bf16 are the same model.
    pipeline = make_pipeline()
    pipeline.transformer.to(torch.bfloat16)
    saccade.enable(pipeline, schedule=schedule)


def test_a_transformer_without_pipeline():
    transformer = make_transformer()

    def steps_of(model, seed):
        for timestep in (1000, 800, 500):
            call(model, timestep, latents=latents_of(seed))

    with pytest.raises(InvalidArgument, match=r"LiteSchedule\(num_steps=\.\.\.\)"):
        calibrate(transformer, steps_of)
    found = calibrate(transformer, steps_of, schedule=LiteSchedule(num_steps=3), verify_with=[1])
    assert found.fingerprint.steps == 3
    # Its patterns hold for a pipeline as well.
    saccade.enable(transformer, schedule=found)
    saccade.disable(transformer)
    found.dense_among([f"transformer.{path}" for path in PATHS])


def test_the_model_is_left_as_it_was():
    pipeline = make_pipeline()
    before = run(pipeline)

    def fails(model, seed):
        raise RuntimeError("out of film")

    with pytest.raises(RuntimeError, match="out of film"):
        calibrate(pipeline, fails)
    with pytest.raises(InvalidArgument, match="run did not call the model"):
        calibrate(pipeline, lambda model, seed: None)
    calibrate(pipeline)
    assert torch.equal(run(pipeline), before)
    with pytest.raises(InvalidArgument, match="not enabled"):
        saccade.summary(pipeline)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"error": 0.1, "sparsity": 0.2}, "give one of error, sparsity and speedup"),
        ({"error": -0.1}, "level, -0.1"),
        ({"error": 0.005}, "slope .* 0.01, .* level, 0.005"),
        ({"error": [0.1, 0.1]}, "step is 2, but error has targets for 2 steps"),
        ({"order": "strongest"}, "the order is strongest, .* linear or radial"),
        ({"mass_budget": 1.0}, "no option 'mass_budget'; .* reference, order"),
        ({"reference": "row"}, "reference must be running or lse"),
        ({"schedule": LiteSchedule(dense_layers="nothing")}, "'nothing', which matches none"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(InvalidArgument, match=message):
        calibrate(**options)


def test_two_transformers():
    with pytest.raises(Unsupported, match=r"one transformer, .* transformer and transformer_2"):
        calibrate(make_pipeline(boundary_ratio=0.5))


def test_arguments_of_a_pipeline():
    pipeline = make_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    arguments = {
        "prompt_embeds": text_of(0),
        "negative_prompt_embeds": text_of(1),
        "height": 64,
        "width": 64,
        "num_frames": 9,
        "num_inference_steps": 3,
        "output_type": "latent",
    }
    found = calibrate(pipeline, arguments)
    assert found.fingerprint.steps == 3
    assert found.fingerprint.length == 3 * 4 * 4

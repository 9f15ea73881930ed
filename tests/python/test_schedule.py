"""LiteSchedule: its JSON, its plans for layers and steps, and what saccade.enable makes of it."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saccade
from saccade import FileError, Fingerprint, InvalidArgument, LayerThresholds, LiteSchedule
from saccade.lite_schedule import CalibrationRecord, LayerErrors, StepErrors, Verification
from wan_models import PATHS, call, generate, make_pipeline, make_transformer

EVERYTHING = LiteSchedule(
    -0.1,
    (-8.0, -math.inf, -1 / 3),
    dense_first_steps=0,
    dense_last_steps=1,
    num_steps=3,
    layer_thresholds=(
        LayerThresholds("blocks.*", threshold=-4.0),
        LayerThresholds("*.ü", thresholds=(-1.0, -2.0, -3.0)),
        LayerThresholds("[a-c]", head_thresholds=(-1.0, 0.0)),
        LayerThresholds("d", step_head_thresholds=((-1.0,), (-2.0,), (-math.inf,))),
    ),
    dense_first_sigma=0.9,
    dense_last_sigma=0.1,
    dense_layers=("blocks.0.*",),
    min_length=4096,
    must_do_queries=((0, 226),),
    must_do_keys=((0, 226), (300, 301)),
    must_skip_queries=((226, 228),),
    must_skip_keys=((400, 500),),
    fingerprint=Fingerprint(model="Wan", heads=12, order="radial", block_q=128),
    calibration=CalibrationRecord(
        "error",
        (0.1, 0.2, 0.3),
        seed=7,
        layers=(LayerErrors("d", StepErrors((0.1,), (0.2,), (1.0,))),),
        verification=(Verification(8, 0.3, StepErrors((math.inf,), (0.2,), (-1.0,))),),
    ),
)

thresholds = st.floats(max_value=0, allow_nan=False)
lists = st.lists(thresholds, max_size=5).map(tuple)
sigmas = st.none() | st.floats(min_value=0, max_value=1)
patterns = st.sampled_from(["*", "blocks.?.attn1", "[!a]*", "ü"])
entries = st.builds(LayerThresholds, layers=patterns, threshold=thresholds) | st.builds(
    LayerThresholds, layers=patterns, head_thresholds=st.lists(thresholds, min_size=1).map(tuple)
)


@st.composite
def ranges(draw):
    bounds = sorted(draw(st.sets(st.integers(0, 2**40), max_size=8)))
    return tuple(zip(bounds[::2], bounds[1::2], strict=False))


@st.composite
def schedules(draw):
    by_step, by_head = draw(st.sampled_from([(lists, st.just(())), (st.just(()), lists)]))
    first, last = sorted((draw(sigmas), draw(sigmas)), key=lambda s: math.inf if s is None else -s)
    return LiteSchedule(
        draw(thresholds),
        draw(by_step),
        head_thresholds=draw(by_head),
        layer_thresholds=draw(st.lists(entries, max_size=3)),
        dense_first_steps=draw(st.integers(0, 2**62)),
        dense_first_sigma=first,
        dense_last_sigma=last,
        dense_layers=draw(st.lists(patterns, max_size=3)),
        min_length=draw(st.integers(0, 2**62)),
        must_do_queries=draw(ranges()),
        must_skip_keys=draw(ranges()),
        fingerprint=draw(st.none() | st.builds(Fingerprint, model=st.text(), steps=st.just(3))),
    )


@settings(deadline=None)
@given(schedules())
def test_json_gives_the_same_schedule(schedule):
    assert LiteSchedule.from_json(schedule.to_json()) == schedule


@settings(deadline=None)
@given(st.text() | st.binary())
def test_other_texts_are_refused(text):
    with pytest.raises(InvalidArgument):
        LiteSchedule.from_json(text)


def test_python_and_json_have_the_same_fields():
    for value, written in (
        (EVERYTHING, json.loads(EVERYTHING.to_json())),
        (
            Fingerprint(),
            json.loads(LiteSchedule(fingerprint=Fingerprint()).to_json())["fingerprint"],
        ),
    ):
        names = {f.name for f in dataclasses.fields(value)}
        assert set(written) - {"version"} == names - (
            {"head_thresholds"} if value is EVERYTHING else set()
        )
    assert LiteSchedule.from_json(EVERYTHING.to_json()) == EVERYTHING
    assert json.loads(EVERYTHING.to_json())["thresholds"] == [-8.0, "-inf", -1 / 3]
    assert LiteSchedule.from_json('{"version": 1}') == LiteSchedule()


def test_what_looks_alike_is_equal():
    loose = LiteSchedule(
        threshold=-8,
        head_thresholds=[-1, -2],
        layer_thresholds=[{"layers": "a", "threshold": -3}],
        dense_layers="a",
        must_do_keys=[[0, 3]],
        fingerprint={"model": "Wan"},
    )
    strict = LiteSchedule(
        head_thresholds=(-1.0, -2.0),
        layer_thresholds=(LayerThresholds("a", -3.0),),
        dense_layers=("a",),
        must_do_keys=((0, 3),),
        fingerprint=Fingerprint("Wan"),
    )
    assert loose == strict
    assert hash(loose) == hash(strict)
    assert pickle.loads(pickle.dumps(loose)) == strict
    assert dataclasses.replace(loose, dense_layers=()).plan(1, heads=2).is_dense is False


def test_files(tmp_path: Path):
    path = tmp_path / "folder" / "schedule.json"
    EVERYTHING.save(path)
    assert LiteSchedule.load(str(path)) == EVERYTHING
    assert path.read_text(encoding="utf-8") == EVERYTHING.to_json()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    path.write_text('{"version": 1, "treshold": -1}')
    with pytest.raises(FileError, match=r'schedule.json: .*"treshold"; nearest: threshold'):
        LiteSchedule.load(path)
    with pytest.raises(FileError, match=r"cannot read .*missing.json: No such file"):
        LiteSchedule.load(tmp_path / "missing.json")
    with pytest.raises(FileError, match=r"cannot write .*schedule.json: "):
        EVERYTHING.save(path / "schedule.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": 0.5}, "threshold is 0.5"),
        ({"threshold": math.nan}, "threshold is nan"),
        ({"thresholds": (-1, math.inf)}, r"thresholds\[1\] is inf"),
        ({"num_steps": 2**63}, "num_steps is 9223372036854775808"),
        ({"dense_last_steps": 1}, "num_steps is unknown"),
        ({"dense_first_sigma": 2}, "dense_first_sigma is 2"),
        ({"dense_layers": ["["]}, r"dense_layers\[0\] is '\['"),
        ({"dense_layers": [3]}, r"dense_layers\[0\] is 3, but must be a text"),
        ({"dense_layers": ["\ud800"]}, "no JSON"),
        ({"must_do_keys": [(5, 3)]}, r"must_do_keys\[0\] is \[5, 3\)"),
        ({"layer_thresholds": [LayerThresholds("*")]}, r"layer_thresholds\[0\] has 0 of"),
        ({"fingerprint": Fingerprint(block_k=3)}, "fingerprint.block_k is 3"),
        ({"thresholds": (-1,), "head_thresholds": (-1,)}, "both given"),
    ],
)
def test_refused_schedules(fields, message):
    with pytest.raises(InvalidArgument, match=message):
        LiteSchedule(**fields)


@pytest.mark.parametrize(
    "fields", [{"num_steps": 1.5}, {"thresholds": 3}, {"must_do_keys": [3]}, {"tresholds": ()}]
)
def test_what_has_the_wrong_type(fields):
    with pytest.raises(TypeError):
        LiteSchedule(**fields)


def test_plans():
    schedule = LiteSchedule(
        -6.0,
        layer_thresholds=[
            {"layers": "blocks.1.*", "head_thresholds": (-1, -2)},
            {"layers": "blocks.2.*", "threshold": -math.inf},
        ],
        dense_first_steps=0,
        dense_first_sigma=0.75,
        dense_layers=["blocks.0.*"],
        min_length=100,
    )

    def plan(layer, sigma=0.5, length=100):
        return schedule.plan(3, sigma=sigma, layer=layer, heads=2, length=length)

    assert plan("blocks.3.attn1") == (False, (-6.0,))
    assert plan("blocks.3.attn1", sigma=0.75) == (True, (-6.0,))
    assert plan("blocks.3.attn1", length=99) == (True, (-math.inf,))
    assert plan("blocks.2.attn1") == (False, (-math.inf,))
    assert plan("blocks.1.attn1") == (False, (-1.0, -2.0))
    assert plan("blocks.0.attn1") == (True, (-math.inf,))
    for missing, message in (("sigma", "no sigma"), ("heads", "0 query heads"), ("length", "is 0")):
        given = {"sigma": 0.5, "heads": 2, "length": 100}
        del given[missing]
        with pytest.raises(InvalidArgument, match=message):
            schedule.plan(3, layer="blocks.1.attn1", **given)


def test_tables():
    schedule = LiteSchedule(-6.0, num_steps=10, dense_last_steps=1, dense_layers=["a"])
    table = schedule.table(["a", "b", "c"])
    assert table.plans == tuple(
        tuple(schedule.plan(step, layer=layer) for step in range(10)) for layer in "abc"
    )
    assert str(table).splitlines()[:3] == [
        "step    0           1-8    9",
        "a       dense       dense  dense",
        "b to c  dense (-6)  -6     dense (-6)",
    ]
    with_sigmas = LiteSchedule(dense_first_sigma=0.5).table(["a"], sigmas=[1.0, 0.6, 0.2])
    assert [plan.is_dense for plan in with_sigmas.plans[0]] == [True, True, False]
    assert with_sigmas.sigmas == (1.0, 0.6, 0.2)
    with pytest.raises(InvalidArgument, match="number of steps is unknown"):
        LiteSchedule().table(["a"])


def test_fingerprints():
    one = Fingerprint(model="Wan", heads=12, layers=30)
    one.require_match(Fingerprint(model="Wan", heads=12, steps=50))
    with pytest.raises(InvalidArgument, match="model is 'Wan', not 'Flux'; heads is 12, not 24"):
        one.require_match(Fingerprint(model="Flux", heads=24, layers=30))


def dense_steps(model, layer=0, branch="cond"):
    calls = saccade.summary(model).layers[layer].calls
    return [c.is_dense for c in calls if c.branch == branch]


def test_enable_honours_layers():
    transformer = make_transformer()
    schedule = LiteSchedule(
        -math.inf,
        dense_first_steps=0,
        layer_thresholds=[{"layers": "*.1.attn1", "threshold": -1.0}],
    )
    saccade.enable(transformer, schedule=schedule)
    for timestep in (1000, 900):
        call(transformer, timestep)
    first, second = saccade.summary(transformer).layers
    assert [(c.threshold, c.sparsity) for c in first.calls] == [(-math.inf, 0), (-math.inf, 0)]
    assert [c.threshold for c in second.calls] == [-1, -1]
    assert second.calls[1].sparsity > 0


def test_enable_honours_dense_layers():
    transformer = make_transformer()
    saccade.enable(transformer, schedule=LiteSchedule(0.0, dense_layers=["blocks.[1-9].*"]))
    for timestep in (1000, 900):
        call(transformer, timestep)
    assert dense_steps(transformer, 0) == [True, False]
    assert dense_steps(transformer, 1) == [True, True]
    assert saccade.summary(transformer).tables[0].plans[1][1] == (True, (-math.inf,))


@pytest.mark.parametrize(
    "fields",
    [
        {"dense_layers": ["block.*"]},
        {"layer_thresholds": [{"layers": "block.*", "threshold": -1}]},
    ],
)
def test_enable_refuses_patterns_that_match_nothing(fields):
    transformer = make_transformer()
    with pytest.raises(InvalidArgument, match=r"'block.\*', which matches none of the 2 layers"):
        saccade.enable(transformer, schedule=LiteSchedule(**fields))
    saccade.enable(transformer)


def test_enable_honours_sigma():
    transformer = make_transformer()
    saccade.enable(
        transformer,
        schedule=LiteSchedule(dense_first_steps=0, dense_first_sigma=0.9, dense_last_sigma=0.5),
    )
    for timestep in (1000, 900, 899, 500, 499):
        call(transformer, timestep)
        call(transformer, timestep, "uncond")
    for branch in ("cond", "uncond"):
        assert dense_steps(transformer, branch=branch) == [True, True, False, False, True]
    assert saccade.summary(transformer).tables[0].sigmas == (1.0, 0.9, 0.899, 0.5, 0.499)


def test_the_scheduler_says_what_full_noise_is():
    pipeline = make_pipeline()
    pipeline.scheduler.register_to_config(num_train_timesteps=500)
    saccade.enable(pipeline, schedule=LiteSchedule(dense_first_steps=0, dense_first_sigma=0.9))
    call(pipeline.transformer, 450)
    call(pipeline.transformer, 449)
    assert dense_steps(pipeline) == [True, False]


@pytest.mark.parametrize("min_length", [320, 321])
def test_enable_honours_min_length(min_length):
    transformer = make_transformer()
    saccade.enable(transformer, schedule=LiteSchedule(-1.0, min_length=min_length))
    call(transformer, 1000)
    call(transformer, 900)
    assert dense_steps(transformer) == [True, min_length > 320]


def test_must_skip_ranges_are_never_computed():
    transformer = make_transformer()
    schedule = LiteSchedule(-math.inf, must_skip_keys=[(60, 200)])
    saccade.enable(transformer, schedule=schedule)
    for timestep in (1000, 900):
        call(transformer, timestep)
    for made in saccade.summary(transformer).calls:
        assert made.active.tolist() == [[3 * 3, 3 * 3]]  # without the tiles [64, 192) of 5 and 320


def test_heads_have_thresholds_of_their_own():
    masks = []
    for thresholds in ([-1.0, -math.inf], [-math.inf, -1.0]):
        transformer = make_transformer()
        saccade.enable(transformer, schedule=LiteSchedule(head_thresholds=thresholds))
        call(transformer, 1000)
        masks.append(saccade.summary(transformer).layers[0].attention.mask().to_dense())
    assert masks[0][:, 1].all()
    assert masks[1][:, 0].all()
    assert not masks[0][:, 0].all()
    assert not masks[1][:, 1].all()


def test_must_do_ranges_are_kept():
    transformer = make_transformer()
    saccade.enable(transformer, schedule=LiteSchedule(0.0, must_do_keys=[(100, 101)]))
    call(transformer, 1000)
    for layer in saccade.summary(transformer).layers:
        active = layer.attention.mask().to_dense()
        assert active[..., 1].all()
        assert not active.all()


def test_an_attention_may_ask_for_sigma():
    seen = []

    def attend(q, k, v, *, step, branch, sigma):
        seen.append((step, sigma))
        return q

    transformer = make_transformer(layers=1)
    saccade.enable(transformer, method=lambda path: attend)
    call(transformer, 750)
    call(transformer, 250)
    assert seen == [(0, 0.75), (1, 0.25)]


def test_the_summary_shows_the_table():
    pipeline = make_pipeline()
    schedule = LiteSchedule(-6.0, dense_layers=["*.0.attn1"])
    saccade.enable(pipeline, schedule=schedule)
    assert saccade.summary(pipeline).tables == ()
    generate(pipeline)
    summary = saccade.summary(pipeline)
    (table,) = summary.tables
    assert table.layers == tuple(f"transformer.{path}" for path in PATHS)
    assert len(table.plans[0]) == 3
    assert str(summary).endswith("\n\n" + str(table))
    assert table.sigmas[0] == 1.0
    saccade.disable(pipeline)
    saccade.enable(pipeline, method="dense")
    generate(pipeline)
    assert saccade.summary(pipeline).tables == ()


def test_a_lone_layer_takes_sigma():
    lite = saccade.LiteAttention(LiteSchedule(dense_first_steps=0, dense_last_sigma=0.5), layer="a")
    q = torch.randn(1, 2, 130, 64)
    with pytest.raises(InvalidArgument, match="no sigma"):
        lite(q, q, q, step=0)
    lite(q, q, q, step=0, sigma=0.4)
    lite(q, q, q, step=1, sigma=0.5)
    assert [entry.is_dense for entry in lite.statistics] == [True, False]

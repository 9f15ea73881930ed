"""saccade.summary: records and table of what the layers of a model computed."""

from __future__ import annotations

import json

import pytest
import torch

import saccade
from wan_models import PATHS, call, generate, make_pipeline, make_transformer


def test_summary_before_any_call():
    transformer = make_transformer()
    saccade.enable(transformer)
    summary = saccade.summary(transformer)
    assert (summary.calls, summary.sparsity, summary.seconds) == ((), None, None)
    assert str(summary).splitlines() == [
        "layer           branch  calls  sparsity  seconds",
        "blocks.0.attn1  -           0         -        -",
        "blocks.1.attn1  -           0         -        -",
        "total                       0         -        -",
        "no calls yet: run the model first",
    ]


def test_summary_counts_what_was_computed():
    pipeline = make_pipeline()
    saccade.enable(pipeline, threshold=-6.0, dense_layers=[0])
    generate(pipeline)
    summary = saccade.summary(pipeline)
    sparse = summary.layers[1]
    assert isinstance(summary, saccade.Summary)
    assert [c.path for c in sparse.calls] == ["transformer.blocks.1.attn1"] * 6
    for recorded, own in zip(sparse.calls, sparse.attention.statistics, strict=True):
        assert (recorded.branch, recorded.step) == (own.branch, own.step)
        assert (recorded.threshold, recorded.tiles) == (own.threshold, 15)
        assert torch.equal(recorded.active, own.active)
        assert recorded.active.shape == (1, 2)
        assert recorded.sparsity == pytest.approx(own.sparsity)
        assert recorded.seconds > 0
    assert summary.sparsity == pytest.approx(sum(c.sparsity for c in sparse.calls) / 12)
    assert summary.seconds == pytest.approx(sum(c.seconds for c in summary.calls))
    lines = str(summary).splitlines()
    assert [line.split()[:3] for line in lines[1:5]] == [
        [f"transformer.{path}", branch, "3"] for path in PATHS for branch in ("cond", "uncond")
    ]
    assert lines[1].split()[3] == "0.0%"
    assert lines[5].split()[:3] == ["total", "12", f"{summary.sparsity:.1%}"]
    generate(pipeline, steps=1)
    assert len(summary.calls) == 12


def test_an_attention_without_statistics():
    transformer = make_transformer()

    def attend(q, k, v, *, step, branch):
        return saccade.attention(q, k, v, layout="bshd")

    saccade.enable(transformer, method=lambda path: attend)
    call(transformer, 1000)
    summary = saccade.summary(transformer)
    assert summary.layers[0].attention is attend
    assert (summary.sparsity, summary.calls[0].active) == (None, None)
    assert str(summary).splitlines()[-1].split()[:3] == ["total", "2", "-"]


def test_json_has_every_call_and_head():
    transformer = make_transformer()
    saccade.enable(transformer, threshold=-6.0, reprobe_period=2, measures_mass=True)
    for timestep in (900.0, 700.0):
        call(transformer, timestep)
    summary = saccade.summary(transformer)
    found = json.loads(summary.to_json())
    assert found["state_bytes"] == summary.state_bytes > 0
    assert [(c["path"], c["branch"], c["step"]) for c in found["calls"]] == [
        (path, "cond", step) for path in PATHS for step in range(2)
    ]
    for one, call_made in zip(found["calls"], summary.calls, strict=True):
        assert one["active"] == call_made.active.tolist()
        assert one["kept_mass"] == call_made.kept_mass.tolist()
        assert one["dropped_mass"] == call_made.dropped_mass.tolist()
        assert one["threshold"] == -6.0
    saccade.disable(transformer)
    saccade.enable(transformer, "dense")
    call(transformer, 900.0)
    assert json.loads(saccade.summary(transformer).to_json())["calls"][0]["threshold"] == "-inf"

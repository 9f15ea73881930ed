"""saccade.summary: records and table of what the layers of a model computed."""

from __future__ import annotations

import json
import sys

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
    assert (found["sparsity"], found["seconds"]) == (summary.sparsity, summary.seconds)
    assert [layer["path"] for layer in found["layers"]] == PATHS
    assert sum(layer["state_bytes"] for layer in found["layers"]) == summary.state_bytes
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


def measured(**options):
    pipeline = make_pipeline(boundary_ratio=0.6)
    saccade.enable(pipeline, threshold=-6.0, reprobe_period=2, measures_mass=True, **options)
    generate(pipeline, steps=5)  # two of one expert, three of the other
    return saccade.summary(pipeline)


def test_tensors_hold_every_number_once():
    summary = measured()
    tensors = summary.to_tensors()
    assert summary.branches == ("cond", "uncond")
    assert tensors["seconds"].shape == (4, 2, 3)
    names = ("sparsity", "active", "kept_mass", "dropped_mass")
    assert all(tensors[name].shape == (4, 2, 3, 2) for name in names)
    seen = torch.zeros(4, 2, 3)
    for i, layer in enumerate(summary.layers):
        for made in layer.calls:
            at = i, summary.branches.index(made.branch), made.step
            seen[at] += 1
            assert tensors["seconds"][at] == made.seconds
            assert torch.equal(tensors["active"][at], made.active[0].double())
            torch.testing.assert_close(tensors["sparsity"][at], 1 - made.active[0].double() / 15)
            assert torch.equal(tensors["kept_mass"][at], made.kept_mass[0].double())
            assert torch.equal(tensors["dropped_mass"][at], made.dropped_mass[0].double())
    assert torch.equal(tensors["seconds"].isnan(), seen == 0)
    assert tensors["state_bytes"].tolist() == [layer.state_bytes for layer in summary.layers]
    assert int(tensors["state_bytes"].sum()) == summary.state_bytes > 0


def test_tensors_of_what_is_not_known():
    transformer = make_transformer()
    saccade.enable(transformer, lambda path: lambda q, k, v, **_: q)
    assert saccade.summary(transformer).to_tensors()["seconds"].shape == (2, 0, 0)
    call(transformer, 900.0)
    tensors = saccade.summary(transformer).to_tensors()
    assert tensors["sparsity"].shape == (2, 1, 1, 0)
    assert (tensors["seconds"] > 0).all()
    assert tensors["state_bytes"].tolist() == [0, 0]


def data_of(page):
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def test_the_page_has_every_number(tmp_path):
    summary = measured()
    path = tmp_path / "folder" / "page.html"
    summary.to_html(path, title="<Wan> & co")
    page = path.read_text(encoding="utf-8")
    assert "&lt;Wan&gt; &amp; co" in page
    assert "Plotly" in page
    assert "http" not in page.split("<script>")[0]
    assert all(f"<td>{layer.path}</td>" in page for layer in summary.layers)
    assert str(summary.tables[0]).splitlines()[0] in page
    data = data_of(page)
    assert data["layers"] == [layer.path for layer in summary.layers]
    names = ["tiles skipped", "time", "mass lost", "estimate of the mass dropped"]
    assert [quantity["name"] for quantity in data["quantities"]] == names
    skipped, time, *_ = data["quantities"]
    tensors = summary.to_tensors()
    for branch in range(2):
        for layer in range(4):
            expected = 100 * tensors["sparsity"][layer, branch]
            found = skipped["by_head"][branch][layer]
            for head in range(2):
                for step in range(3):
                    value, cell = float(expected[step, head]), found[head][step]
                    assert cell is None if value != value else cell == value
            row = time["by_layer"][branch][layer]
            assert [v is None for v in row] == tensors["seconds"][layer, branch].isnan().tolist()
    assert time["by_head"] is None


def test_pages_of_little(tmp_path):
    transformer = make_transformer()
    saccade.enable(transformer, "dense")
    saccade.summary(transformer).to_html(tmp_path / "empty.html")
    assert "<script>" not in (tmp_path / "empty.html").read_text(encoding="utf-8")
    call(transformer, 900.0)
    saccade.summary(transformer).to_html(tmp_path / "dense.html")
    data = data_of((tmp_path / "dense.html").read_text(encoding="utf-8"))
    assert [q["name"] for q in data["quantities"]] == ["tiles skipped", "time"]
    with pytest.raises(saccade.FileError, match="cannot write"):
        saccade.summary(transformer).to_html("/proc/page.html")


def test_pages_need_their_packages(monkeypatch, tmp_path):
    transformer = make_transformer()
    saccade.enable(transformer)
    for name in [name for name in sys.modules if name.startswith("saccade.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(saccade.Unsupported, match=r"jinja2; `pip install saccade\[demo\]`"):
        saccade.summary(transformer).to_html(tmp_path / "page.html")

"""The demo: words, quality, random tiles, resuming, checkpoints, the report, and a tiny run."""

import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from safetensors.torch import load_file, save_file

import saccade
from saccade.demo import quality
from saccade.demo.__main__ import main
from saccade.demo.classifier import Accuracy, Classifier, load_classifier, save_classifier
from saccade.demo.draw import Drawn, Request, mismatch_of
from saccade.demo.load import load_model
from saccade.demo.models import Sampling, Shape
from saccade.demo.moving_shapes import VOCABULARY, Prompt, draw_clips, embed, fold, unfold
from saccade.demo.random_tiles import RandomTiles, kept_tiles
from saccade.demo.results_file import ResultsFile
from saccade.demo.sweep import Sweep
from saccade.files import write_atomically
from saccade.report import Clip, Contents, MaskHistory, Measurement, summarise, write_report
from saccade.report.measurement import featured, interval

PROMPT = "ring blue striped left waves"
DEMO_MODEL = Path(__file__).parents[2] / "examples/demo_model"


def measurement(method="lite", threshold=-2.0, *, seconds=1.0, active=None, seed=0, **others):
    """One branch, one layer, two heads, two steps, of 4 tiles each."""
    active = [[[[4, 2], [4, 2]]]] if active is None else active
    is_dense = method == "dense"
    fields = {
        "prompt": PROMPT, "frames": 2, "tokens": 128, "steps": 2, "total_seconds": 3.0,
        "branches": ["cond"], "layers": ["blocks.0.attn1"], "tiles": 4, "flicker": 0.25,
        "psnr": None if is_dense else 31.0, "ssim": None if is_dense else 0.9,
        "wanted": "ring", "recognised": "ring",
    }  # fmt: skip
    return Measurement(
        method, None if is_dense else threshold, attention_seconds=seconds, active=active,
        seed=seed, **{**fields, **others}
    )  # fmt: skip


def dense(**others):
    return measurement("dense", None, active=[[[[4, 4], [4, 4]]]], **others)


# Words


def test_unfold_is_the_inverse_of_fold():
    clips = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    assert fold(clips).shape == (2, 12, 4, 8, 8)
    torch.testing.assert_close(unfold(fold(clips)), clips)


def test_every_word_has_its_own_channel():
    channels = []
    for name, words in VOCABULARY.items():
        for word in words:
            prompt = replace(Prompt.parse(PROMPT), **{name: word})
            row = embed([prompt])[0, list(VOCABULARY).index(name)]
            assert row.sum() == 1
            channels.append(int(row.argmax()))
    assert len(set(channels)) == len(channels)
    assert int(embed([None])[0].argmax(1).unique()) not in channels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ring blue striped left", "5 words .*got 4"),
        ("wheel blue striped left waves", "kind 'wheel' .*disc, square"),
        ("ring blue striped left fog", "background 'fog' .*waves"),
    ],
)
def test_wrong_words_are_named(text, message):
    with pytest.raises(saccade.InvalidArgument, match=message):
        Prompt.parse(text)


# Quality


def test_psnr_is_the_mean_over_frames_and_has_a_ceiling():
    reference = torch.zeros(3, 2, 16, 16)
    clip = reference.clone()
    clip[:, 1] = 0.1  # mean squared error 0.01: 20 dB; the other frame is equal
    assert quality.psnr(clip, reference) == pytest.approx((quality.PSNR_CEILING + 20) / 2)


def test_ssim_of_constant_frames_is_its_luminance_term():
    low, high = torch.full((3, 2, 16, 16), 0.2), torch.full((3, 2, 16, 16), 0.6)
    wanted = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert quality.ssim(low, high) == pytest.approx(wanted, abs=1e-4)
    assert quality.ssim(low, low) == pytest.approx(1)


def test_flicker_is_the_mean_change_between_frames():
    clip = torch.tensor([0.0, 0.5, 0.25]).view(1, 3, 1, 1).expand(3, 3, 4, 4)
    assert quality.flicker(clip) == pytest.approx((0.5 + 0.25) / 2)
    assert quality.flicker(clip[:, :1]) == 0


# The classifier's file


def test_a_classifier_survives_its_file(tmp_path):
    path = tmp_path / "classifier.safetensors"
    classifier = Classifier()
    classifier.accuracy = Accuracy(0.99, 0.98, 100)
    save_classifier(classifier, path)
    clip = draw_clips(
        [Prompt.parse(PROMPT)], frames=2, size=32, generator=torch.Generator().manual_seed(0)
    )
    loaded = load_classifier(path)
    assert loaded.accuracy == classifier.accuracy
    assert torch.equal(loaded(clip), classifier(clip))
    assert path.stat().st_size < 2**20


def test_a_file_that_is_no_classifier_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x99" * 20)
    for name in ("other", "torn", "missing"):
        with pytest.raises(
            saccade.InvalidArgument, match=f"{name}.safetensors is not a classifier"
        ):
            load_classifier(tmp_path / f"{name}.safetensors")


# Random tiles


def test_random_tiles_keep_the_counts_are_nested_and_leave_no_row_empty():
    counts = torch.tensor([[16, 9, 4], [16, 12, 5]])  # [heads, steps] of 4 x 4 tiles
    layer = RandomTiles({("layer", "cond"): counts}, block_q=64, block_k=64, seed=1)("layer")
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 256, 2, 32, generator=generator) for _ in range(2))
    # Row-wise one-hot values show which key tiles a row attended to.
    v = torch.zeros(1, 256, 2, 32)
    v[0, torch.arange(256), :, torch.arange(256) // 64] = 1
    seen = [layer(q, k, v, step=step, branch="cond")[0, ::64, :, :4] > 0 for step in range(3)]
    for step, tiles in enumerate(seen):
        assert torch.equal(tiles.sum((0, 2)), counts[:, step])
        assert torch.equal(layer.statistics[step].active[0], counts[:, step])
        assert tiles.any(2).all()
    assert not (seen[1] & ~seen[0]).any()
    assert not (seen[2] & ~seen[1]).any()
    assert not torch.equal(seen[2][:, 0], seen[2][:, 1])


def test_kept_tiles_are_those_of_a_measurement():
    kept = kept_tiles(measurement(active=[[[[4, 3], [4, 1]]]]))
    assert list(kept) == [("blocks.0.attn1", "cond")]
    assert kept["blocks.0.attn1", "cond"].tolist() == [[4, 3], [4, 1]]


# Averages


def test_a_row_takes_ratios_clip_by_clip():
    clips = [
        dense(seconds=2.0),
        measurement(seconds=1.0),  # 2 of 8 tiles of each head skipped: sparsity 0.25
        dense(seconds=6.0, seed=1),
        measurement(seconds=2.0, seed=1, recognised="disc", flicker=0.75),
        measurement(seconds=9.0, seed=2),  # without its dense clip: left out
    ]
    rows = summarise(clips)
    assert [(row.label, row.clips) for row in rows] == [("dense", 2), ("lite -2", 2)]
    lite = rows[1]
    assert lite.sparsity.mean == pytest.approx(0.25)
    assert lite.speed_up.mean == pytest.approx((2 / 1 + 6 / 2) / 2)
    assert lite.over_ideal.mean == pytest.approx((1 / 1.5 + 2 / 4.5) / 2)
    assert lite.flicker_change.mean == pytest.approx(0.25)
    assert lite.recognised == 1
    assert rows[0].psnr is None


def test_intervals_are_students():
    assert interval([1.0, 2.0, 3.0]).high is None
    known = interval([1.0, 2.0, 3.0, 4.0])  # standard deviation 1.29099, t(3) = 3.182
    assert known.mean == 2.5
    assert known.high - known.mean == pytest.approx(3.182 * 1.29099 / 2, rel=1e-4)


def test_the_featured_row_is_the_fastest_good_one():
    rows = summarise([
        dense(seconds=4.0),
        measurement(threshold=-4.0, seconds=3.0, psnr=40.0),
        measurement(threshold=-2.0, seconds=2.0, psnr=30.5),
        measurement(threshold=-1.0, seconds=1.0, psnr=20.0),
    ])  # fmt: skip
    assert featured(rows).threshold == -2.0
    assert featured([row for row in rows if row.threshold != -2.0]).threshold == -4.0
    assert featured([row for row in rows if row.threshold == -1.0]).threshold == -1.0
    calibrated = summarise([
        dense(seconds=4.0),
        measurement(threshold=-2.0, seconds=2.0, psnr=30.5),
        measurement("calibrated", None, seconds=1.5, psnr=31.0),
    ])  # fmt: skip
    assert featured(calibrated).label == "calibrated"


# Requests and results


def request(method="dense", threshold=None, **others):
    fields = {
        "prompt": PROMPT, "seed": 0, "shape": Shape(2, 16, 16), "sampling": Sampling(2, 3.0),
        "dense_first_steps": 1, "block_q": 64, "block_k": 64,
    }  # fmt: skip
    return Request(method, threshold, **{**fields, **others})


@pytest.mark.parametrize("threshold", [0.5, math.nan, math.inf, None])
def test_illegal_thresholds_are_refused(threshold):
    with pytest.raises(saccade.InvalidArgument, match="threshold"):
        request("lite", threshold)


def test_a_sweep_draws_what_others_are_compared_with_first():
    sweep = Sweep(("a", "b"), (-2.0, -1.0), has_random=True, long_frames=(4,), long_clips=1)
    requests = list(sweep.requests(request()))
    assert len(requests) == len(set(requests)) == 2 * 5 + 3
    for position, one in enumerate(requests):
        if one.method == "random":
            assert replace(one, method="lite") in requests[:position]
        if one.method != "dense":
            assert replace(one, method="dense", threshold=None) in requests[:position]


def drawn(value=0.5):
    kept = torch.ones(1, 1, 1, 2, 2, dtype=torch.uint8)
    masks = MaskHistory("lite -2", PROMPT, ["cond"], [0], [0], 2, kept)
    return Drawn(torch.full((3, 2, 4, 4), value), measurement(), masks)


def test_results_are_found_again_and_a_torn_line_is_drawn_again(tmp_path):
    results = ResultsFile(tmp_path, "model")
    first, second, third = (request("lite", -t) for t in (1.0, 2.0, 3.0))
    results.add(first, drawn(0.25))
    results.add(second, drawn())
    text = results.path.read_text()
    results.path.write_text(text[:-40])

    resumed = ResultsFile(tmp_path, "model")
    assert resumed.find(first).measurement == measurement()
    assert torch.equal(resumed.find(first).clip, drawn(0.25).clip)
    assert torch.equal(resumed.find(first).masks.kept, drawn().masks.kept)
    assert resumed.find(second) is None
    resumed.add(third, drawn())

    again = ResultsFile(tmp_path, "model")
    assert again.find(third) is not None
    assert again.find(second) is None
    assert ResultsFile(tmp_path, "other").find(first) is None


def test_a_result_without_its_clip_is_drawn_again(tmp_path):
    results = ResultsFile(tmp_path, "model")
    results.add(request(), drawn())
    (clip,) = (tmp_path / "clips").iterdir()
    clip.write_bytes(clip.read_bytes()[:100])
    assert ResultsFile(tmp_path, "model").find(request()) is None


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_atomically(path, "old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# The report


class Resources(HTMLParser):
    """The addresses that a page loads, and the elements that it leaves open."""

    VOID = frozenset({"meta", "input", "link", "img", "br", "hr"})

    def __init__(self):
        super().__init__()
        self.addresses, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        self.text += [value for name, value in attributes if name == "style"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["script"]:
            self.text.append(data)


def test_the_report_is_one_file_that_loads_nothing(tmp_path):
    clips = [dense(), measurement(), measurement("random", -2.0, psnr=20.0), dense(frames=3),
             measurement(frames=3)]  # fmt: skip
    frames = torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    contents = Contents(
        title="Dense </script> & sparse",
        lead="lead",
        measurements=clips,
        clips=[Clip("dense", PROMPT, "", frames), Clip("<b>", PROMPT, "", frames)],
        masks=[replace(drawn().masks, label="</script>")],
        facts=[("command", "python -m <saccade>")],
        training=[{"step": 1, "held_out_loss": 0.5, "train_loss": None}],
    )
    page = write_report(contents, tmp_path).read_text()
    parser = Resources()
    parser.feed(page)
    assert parser.open == []
    assert parser.addresses == []
    text = " ".join(parser.text)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert text.count("data:image/png;base64,") == 2
    for placeholder in ("{{", "}}", "{%"):
        assert placeholder not in text
    assert "python -m <saccade>" in text
    for section in ("Against random tiles", "Longer clips", "The tile masks"):
        assert section in text
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert [row["label"] for row in numbers["summary"]][:2] == ["dense", "lite -2"]
    assert numbers["measurements"][1]["sparsity"] == pytest.approx(0.25)


def test_a_report_needs_something_to_compare(tmp_path):
    with pytest.raises(ValueError, match="the dense clip"):
        write_report(Contents("t", "l", [dense()]), tmp_path)
    assert list(tmp_path.iterdir()) == []


# Checkpoints and the command line


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    torch.manual_seed(0)
    WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=64, in_channels=12,
        out_channels=12, text_dim=32, freq_dim=32, ffn_dim=64, num_layers=2, rope_max_seq_len=32,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    log = [{"step": 1, "held_out_loss": 1.0, "train_loss": None}]
    (folder / "training.json").write_text(json.dumps({"log": log}))
    classifier = Classifier()
    classifier.accuracy = Accuracy(0.2, 0.2, 5)
    save_classifier(classifier, folder / "classifier.safetensors")
    return folder


def run(model, out, *options):
    small = ("--frames=4", "--height=32", "--width=32", "--steps=2", "--device=cpu")
    return main(["--model", str(model), "--out", str(out), *small, *options])


def test_a_tiny_demo_from_end_to_end(tiny_model, tmp_path, capsys):
    assert run(tiny_model, tmp_path, "--threshold=-1", "--threshold=-inf") == 0
    output = capsys.readouterr().out
    assert "lite -1" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert [row["label"] for row in numbers["summary"]] == ["dense", "lite -1", "lite -inf"]
    dense_row, sparse, full = numbers["summary"]
    assert dense_row["sparsity"]["mean"] == full["sparsity"]["mean"] == 0
    assert sparse["clips"] == 2
    assert sparse["tokens"] == 4 * 8 * 8
    assert full["psnr"]["mean"] > 60
    assert numbers["measurements"][1]["steps"] == 2
    assert len(numbers["measurements"][1]["layers"]) == 2


def test_a_tiny_demo_with_a_calibrated_schedule(tiny_model, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    model = load_model(str(folder), torch.device("cpu"))

    def draw_one(_pipeline, seed):
        model.draw(PROMPT, seed, Shape(4, 32, 32), Sampling(2, 3.0), lambda _step: None)

    schedule = saccade.calibrate(
        model.pipeline, draw_one, error=0.2, block_q=64, block_k=64, progress=False
    )
    schedule.save(folder / "schedule.json")
    assert run(folder, tmp_path / "out", "--threshold=-1") == 0
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["label"] for row in numbers["summary"]] == ["dense", "lite -1", "calibrated"]
    assert numbers["summary"][2]["clips"] == 2
    assert numbers["summary"][2]["psnr"] is not None
    assert "calibrated schedule" not in capsys.readouterr().out

    assert run(folder, tmp_path / "other", "--threshold=-1", "--steps=3") == 0
    why = "without the calibrated schedule: the fingerprints differ: steps is 2, not 3"
    assert why in capsys.readouterr().out
    numbers = json.loads((tmp_path / "other" / "report.json").read_text())
    assert [row["label"] for row in numbers["summary"]] == ["dense", "lite -1"]


def test_the_schedule_of_the_demo_model_is_for_its_default_clips():
    model = load_model(str(DEMO_MODEL), torch.device("cpu"))
    steps = model.defaults.sampling.steps
    default = request(shape=Shape(), sampling=Sampling(steps, 3.0))
    assert mismatch_of(model.schedule, model, default) is None
    saccade.enable(model.pipeline, schedule=model.schedule)  # of these weights and this version
    saccade.disable(model.pipeline)
    assert model.schedule.calibration.target == "error"


def test_a_tiny_demo_in_another_token_order(tiny_model, tmp_path):
    options = ("--threshold=-inf", "--prompt", PROMPT)
    for order, name in (("frames", "frames"), ("space_time", "space_time"), ("2x4x4", "2 × 4 × 4")):
        out = tmp_path / order
        assert run(tiny_model, out, *options, f"--token-order={order}") == 0
        assert f"token order {name}" in (out / "report.html").read_text()
        numbers = json.loads((out / "report.json").read_text())
        assert numbers["summary"][1]["psnr"]["mean"] > 60


def test_a_tiny_study_goes_on_where_it_stopped(tiny_model, tmp_path, capsys):
    options = ("--study", "--threshold=-1", "--prompt", PROMPT)
    assert run(tiny_model, tmp_path, *options) == 0
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert len(lines) == 3 + 2  # dense, lite, random; dense and lite with more frames
    by_method = {m["method"]: m for m in (json.loads(line)["measurement"] for line in lines[:3])}
    assert by_method["random"]["active"] == by_method["lite"]["active"]

    (tmp_path / "results.jsonl").write_text("\n".join(lines[:-1]) + "\n" + lines[-1][:50])
    (tmp_path / "report.html").unlink()
    capsys.readouterr()
    assert run(tiny_model, tmp_path, *options) == 0
    assert capsys.readouterr().out.count("done before") == 4
    assert "Against random tiles" in (tmp_path / "report.html").read_text()


def broken_copy(model: Path, folder: Path, breakage: str) -> Path:
    """A copy of a model with one thing wrong."""
    for source in model.rglob("*"):
        if source.is_file():
            target = folder / source.relative_to(model)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    config = folder / "transformer/config.json"
    fields = json.loads(config.read_text())
    if breakage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif breakage == "no safetensors":
        weights.write_bytes(b"PK\x03\x04 something else")
    elif breakage == "wrong shape":
        tensors = load_file(weights)
        tensors["proj_out.weight"] = tensors["proj_out.weight"][:-1].contiguous()
        save_file(tensors, weights)
    elif breakage == "missing weight":
        tensors = load_file(weights)
        del tensors["proj_out.bias"]
        save_file(tensors, weights)
    elif breakage == "missing file":
        weights.unlink()
    elif breakage == "other class":
        config.write_text(json.dumps({**fields, "_class_name": "FluxTransformer2DModel"}))
    elif breakage == "other channels":
        config.write_text(json.dumps({**fields, "in_channels": 16}))
    elif breakage == "no JSON":
        config.write_text('{"_class_name": ')
    elif breakage == "no history":
        (folder / "training.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        ("truncated", "truncated or no safetensors file"),
        ("no safetensors", "truncated or no safetensors file"),
        ("wrong shape", r"proj_out.weight is \[47, 128\], expected \[48, 128\]"),
        ("missing weight", r"proj_out.bias is missing, expected \[48\]"),
        ("missing file", "diffusion_pytorch_model.safetensors is missing"),
        ("other class", "config of FluxTransformer2DModel, expected WanTransformer3DModel"),
        ("other channels", "in_channels is 16, and the moving shapes need 12"),
        ("no JSON", "config.json is not readable as JSON"),
        ("no history", "training.json is not the history of a demo model"),
    ],
)
def test_broken_checkpoints_are_named(tiny_model, tmp_path, capsys, breakage, message):
    model = broken_copy(tiny_model, tmp_path / "model", breakage)
    assert run(model, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "{tmp}/nothing"], "there is no folder"),
        (["--model", "{tmp}"], "holds neither the demo model"),
        (["--model", "{tmp}/file"], "is a file"),
        (["--model", "{tmp}/flux"], "config of FluxPipeline, expected WanPipeline"),
        (["--prompt", "wheel blue striped left waves"], "kind 'wheel'"),
        (["--threshold", "1"], "threshold"),
        (["--threshold", "nan"], "threshold"),
        (["--block-q", "32"], "block_q must be 64 or 128"),
        (["--token-order", "rows"], "token_order must be"),
        (["--token-order", "4x0x4"], "a box is (frames, rows, columns)"),
        (["--height", "40"], "height must be a multiple of 16"),
        (["--frames", "0"], "frames must be 1 to"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--guidance", "nan"], "guidance"),
        (["--device", "nonsense"], "device 'nonsense' cannot be used"),
        (["--out", "{tmp}/file/out"], "file"),
    ],
)
def test_mistakes_on_the_command_line_are_named(tiny_model, tmp_path, capsys, options, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "flux").mkdir()
    (tmp_path / "flux/model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    options = [option.format(tmp=tmp_path) for option in options]
    assert run(tiny_model, tmp_path / "out", *options) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert list((tmp_path / "out").glob("*")) == []

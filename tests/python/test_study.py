"""The study of LiteAttention: resuming, equal error, intervals, and fields with known truth."""

import json
import math
import random
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

import saccade
from benchmarks.lite_study import fields, growth, one_step, rules, segments, times
from benchmarks.lite_study.__main__ import FULL, PARTS, main
from benchmarks.lite_study.equal_error import level_below, next_level, skipped_at, value_at
from benchmarks.lite_study.intervals import mean_of, slope_of, text_of
from benchmarks.lite_study.journal import Journal
from benchmarks.lite_study.methods import METHODS, PAPER, scale_thresholds
from benchmarks.lite_study.study import Generation, Study
from saccade.demo.load import load_model
from saccade.demo.models import Sampling, Shape

STEPS = 5


# Journals


@dataclass(frozen=True)
class Number:
    name: str
    value: float

    @property
    def key(self):
        return self.name


def test_a_journal_finds_its_rows_and_ignores_a_torn_line(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    journal = Journal(path, Number)
    for name in "abc":
        journal.add(Number(name, 0.1))
    text = path.read_text()
    path.write_text(text[:-9])

    again = Journal(path, Number)
    assert [row.name for row in again] == ["a", "b"]
    assert "c" not in again
    again.add(Number("c", -math.inf))
    assert list(Journal(path, Number)) == [
        Number("a", 0.1),
        Number("b", 0.1),
        Number("c", -math.inf),
    ]


def test_rows_of_another_version_are_measured_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"name": "a"}\n[]\n{"name": "b", "value": 1, "more": 2}\n')
    assert list(Journal(path, Number)) == []


# Equal error


def draws(errors, target, guess):
    """The levels that a search draws."""
    drawn = {}
    while (level := next_level(drawn, len(errors), target, guess)) is not None:
        assert level not in drawn
        drawn[level] = errors[level]
    return drawn


@pytest.mark.parametrize("guess", [-3, 0, 2, 4, 9])
@pytest.mark.parametrize("target", [0.05, 0.1, 0.15, 0.35, 0.5, 0.6])
def test_a_search_ends_between_two_neighbours(target, guess):
    errors = [0.1, 0.2, 0.3, 0.4, 0.5]
    drawn = draws(errors, target, guess)
    below = sum(error <= target for error in errors) - 1
    assert below == -1 or below in drawn
    assert below == 4 or below + 1 in drawn


def test_a_good_guess_costs_two_draws():
    errors = [i / 10 for i in range(10)]
    for number in range(1, 9):
        assert len(draws(errors, errors[number] + 0.05, number)) == 2
        assert len(draws(errors, errors[number] - 0.05, number)) == 2


def test_a_search_ends_whatever_the_errors():
    generator = random.Random(0)
    for _ in range(500):
        errors = [generator.random() for _ in range(generator.randint(1, 9))]
        drawn = draws(errors, 0.5, generator.randint(0, 9))
        above = min((i for i in drawn if drawn[i] > 0.5), default=len(errors))
        assert above == 0 or drawn[above - 1] <= 0.5


def points_of(*pairs):
    """(sparsity, error) at the levels 0, 1, ..."""
    return [At(float(level), *pair) for level, pair in enumerate(pairs)]


@dataclass(frozen=True)
class At:
    level: float
    sparsity: float
    error: float


THREE_LEVELS = replace(PAPER, levels=(0.0, 1.0, 2.0))


def test_what_is_skipped_at_an_error_lies_on_the_line_through_its_neighbours():
    points = points_of((0.2, 0.02), (0.4, 0.06), (0.5, 0.10))
    for error, skipped in ((0.02, 0.2), (0.03, 0.25), (0.08, 0.45)):
        assert skipped_at(error, points, THREE_LEVELS) == pytest.approx(skipped)
    assert skipped_at(0.01, points, THREE_LEVELS) == pytest.approx(0.1)  # dense has no error
    assert skipped_at(0.10, points, THREE_LEVELS) is None
    assert skipped_at(0.01, [], THREE_LEVELS) is None


def test_nothing_is_said_before_the_neighbours_are_drawn():
    points = points_of((0.2, 0.02), (0.4, 0.06), (0.5, 0.10))
    del points[1]
    assert skipped_at(0.08, points, THREE_LEVELS) is None
    assert level_below(points, THREE_LEVELS, 0.08) is None
    assert level_below(points, THREE_LEVELS, 0.01) == -1


def test_an_error_that_falls_again_counts_where_it_is_crossed_first():
    line = [(0.0, 0.0), (0.02, 0.2), (0.06, 0.4), (0.04, 0.5), (0.08, 0.6)]
    assert value_at(0.05, line) == pytest.approx(0.35)


# Intervals


def test_intervals_are_students():
    found = mean_of([1.0, 2.0, 3.0])
    assert found.mean == 2
    assert found.high - found.mean == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert mean_of([1.0, 2.0]).high is None
    assert text_of(found, "+.1f", 10) == "+20.0 ± 24.8"


def test_the_interval_of_a_slope():
    x = [1.0, 2.0, 3.0, 4.0]
    exact = slope_of(x, [2 * a + 1 for a in x])
    assert (exact.mean, exact.low, exact.high) == pytest.approx((2, 2, 2))
    # Residuals 1, -1, -1, 1: variance 4 / 2, over sum (x - mean)^2 = 5.
    bent = slope_of(x, [1.0, -1.0, -1.0, 1.0])
    assert bent.mean == pytest.approx(0)
    assert bent.high == pytest.approx(4.303 * math.sqrt(2 / 5), rel=1e-3)


# Drawing


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "model"
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=64, in_channels=12,
        out_channels=12, text_dim=32, freq_dim=32, ffn_dim=64, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    for block in transformer.blocks:  # sharp attention to places nearby: many tiles are negligible
        for projection in (block.attn1.to_q, block.attn1.to_k):
            projection.weight.data *= 0.1
            projection.bias.data.fill_(1.0)
        block.attn1.norm_q.weight.data *= 16
    transformer.save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    log = [{"step": 1, "held_out_loss": 1.0, "train_loss": None}]
    (folder / "training.json").write_text(json.dumps({"log": log}))
    return folder


def tiny_study(model, folder, **options) -> Study:
    loaded = load_model(str(model), torch.device("cpu"))
    return Study(
        loaded, folder, sampling=Sampling(STEPS, 3.0), shape=Shape(8, 32, 32), **options
    )  # 512 tokens


def test_what_was_drawn_is_not_drawn_again(tiny_model, tmp_path):
    study = tiny_study(tiny_model, tmp_path)
    clip = study.held_out(1)[0]
    drawn = [study.draw(clip, PAPER, level) for level in (-1.0, -0.05)]
    assert drawn[0].sparsity <= drawn[1].sparsity
    assert drawn[1].error > 0
    assert drawn[0].tokens == 512

    again = tiny_study(tiny_model, tmp_path)
    again.model.draw = None
    assert [again.draw(clip, PAPER, level) for level in (-1.0, -0.05)] == drawn
    assert again.drawn(clip, PAPER) == drawn
    assert again.drawn(replace(clip, seed=7), PAPER) == []
    with pytest.raises(TypeError):
        again.draw(clip, PAPER, -0.1)


def test_a_damaged_dense_clip_is_drawn_again(tiny_model, tmp_path):
    study = tiny_study(tiny_model, tmp_path)
    clip = study.held_out(1)[0]
    dense = study.dense(clip)
    (path,) = (tmp_path / "dense").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    torch.testing.assert_close(study.dense(clip), dense)


def test_no_held_out_clip_has_the_prompt_of_calibration(tiny_model, tmp_path):
    study = tiny_study(tiny_model, tmp_path)
    clips = study.held_out(100)
    assert len(clips) == len(study.model.defaults.prompts) - 1
    assert len({clip.seed for clip in clips}) == len(clips)


@pytest.mark.parametrize("name", METHODS)
def test_levels_go_from_what_skips_least_to_what_skips_most(tiny_model, tmp_path, name):
    study = tiny_study(tiny_model, tmp_path)
    method = METHODS[name]
    if "scaled" in name:
        study.model.schedule = study.calibrated(
            "own", error=0.2, schedule=saccade.LiteSchedule(dense_first_steps=3),
            order="alternating", block_q=64, block_k=64,
        )  # fmt: skip
    clip = study.held_out(1)[0]
    least, most = (study.draw(clip, method, method.levels[i]) for i in (0, -1))
    assert least.sparsity <= most.sparsity
    assert most.sparsity <= (STEPS - 3) / STEPS  # three steps are dense
    assert most.sparsity > 0 or name.endswith("budget")


def test_scaling_keeps_what_drops_nothing():
    layer = saccade.lite_schedule.LayerThresholds(
        "*", step_head_thresholds=((-math.inf, -1.0), (-0.5, -2.0))
    )
    scaled = scale_thresholds(saccade.LiteSchedule(-math.inf, layer_thresholds=(layer,)), 0.5)
    assert scaled.layer_thresholds[0].step_head_thresholds == ((-math.inf, -0.5), (-0.25, -1.0))
    assert scaled.threshold == -math.inf


def test_only_one_step_is_sparse():
    q, k = (8 * x.float()[None, :, None] for x in fields.band(0)(0))  # scaled by 1 / 8, times 64
    v = torch.randn(q.shape, generator=torch.Generator().manual_seed(0))
    dense = saccade.attention(q, k, v, layout="bshd")
    errors, shares = [], []
    attention = one_step.OneStepAttention(2, errors, shares)
    outs = [attention(q, k, v, step=step, branch="cond") for step in range(4)]
    for step in (0, 1, 3):
        torch.testing.assert_close(outs[step], dense)
    assert len(errors) == len(shares) == 1
    assert shares[0] > 0
    assert errors[0] == pytest.approx(float((outs[2] - dense).abs().sum() / dense.abs().sum()))


def test_one_step_is_resumed(tiny_model, tmp_path):
    options = replace(FULL, clips=1, steps=(1, STEPS - 1))
    study = tiny_study(tiny_model, tmp_path)
    one_step.draw(study, options)
    study.model.draw = None
    one_step.draw(study, options)
    section = one_step.section(study, options)
    assert [row[0] for row in section.tables[0].rows] == ["1", str(STEPS - 1)]
    assert b"<svg" in section.pictures["lite_one_step"]


# What the parts make of what is drawn


def fake(study, clip, method, level, sparsity, error, seconds=1.0):
    *_, tokens = identity = study._identity(clip)
    study.generations.add(
        Generation(
            model=identity[0], steps=identity[1], tokens=tokens, prompt=clip.prompt, seed=clip.seed,
            method=method.name, level=level, sparsity=sparsity, error=error, seconds=seconds,
            commit="fake",
        )
    )  # fmt: skip


def fake_line(study, clip, method, factor, error=0.05, seconds=1.0):
    """The first two levels, around the error: ``factor`` skipped at it."""
    fake(study, clip, method, method.levels[0], 0.5 * factor, 0.5 * error, seconds)
    fake(study, clip, method, method.levels[1], 1.5 * factor, 1.5 * error, seconds)


def test_gains_are_taken_clip_by_clip(tiny_model, tmp_path):
    study = tiny_study(tiny_model, tmp_path)
    better, pooled = METHODS["alternating"], METHODS["pooled"]
    for clip in study.held_out(3):
        fake_line(study, clip, PAPER, 0.1 + 0.1 * clip.seed)
        fake_line(study, clip, better, 1.2 * (0.1 + 0.1 * clip.seed))
    fake_line(study, study.held_out(1)[0], pooled, 0.05)
    fake(study, study.held_out(2)[1], pooled, pooled.levels[5], 0.5, 0.5)  # not searched yet
    options = replace(FULL, clips=3, errors=(0.05,))

    found = {result.method: result for result in rules.results(study, options)}
    assert found["alternating"].gains == pytest.approx({0: 1.2, 1: 1.2, 2: 1.2})
    assert found["paper"].skipped == pytest.approx({0: 0.1, 1: 0.2, 2: 0.3})
    assert found["pooled"].skipped == pytest.approx({0: 0.05})
    section = rules.section(study, options)
    assert [row[0] for row in section.tables[0].rows] == ["alternating", "paper", "pooled"]
    (goal,) = section.data["goals"]
    assert (goal["best"], goal["is_met"]) == ("alternating", True)
    assert "met with its interval; alternating reaches 1.20" in section.lead


def test_times_are_taken_to_the_error(tiny_model, tmp_path):
    study = tiny_study(tiny_model, tmp_path)
    pooled = METHODS["pooled"]
    clip = study.held_out(1)[0]
    for method, factor in ((PAPER, 0.2), (pooled, 0.1)):
        fake_line(study, clip, method, factor)
    pairs = times.pairs_of(study)
    for method, over in ((PAPER, 1.0), (pooled, 1.1)):
        for number in range(3):
            pairs.add(
                times.Pair(
                    "m", 5, 512, clip.prompt, 0, method.name, -1.0, 2, number, 0.5,
                    seconds=over * 0.5 * 3.0, dense_seconds=3.0, commit="fake",
                )
            )  # fmt: skip
    section = times.section(study, replace(FULL, clips=1, errors=(0.05,)))
    assert [row[0] for row in section.tables[0].rows] == ["paper", "pooled"]
    assert section.data["times"]["paper"]["of_dense"]["mean"] == pytest.approx(0.8)
    assert section.data["times"]["pooled"]["of_dense"]["mean"] == pytest.approx(1.1 * 0.9)
    goal = section.data["goal"]
    assert (goal["best"], goal["baseline"], goal["is_met"]) == ("paper", "pooled", True)
    assert goal["ratio"] == pytest.approx(0.8 / 0.99)
    assert "met; paper takes 0.81 of that of pooled" in section.lead


def test_segments_are_compared_at_the_error_of_thirds(tiny_model, tmp_path):
    study = tiny_study(tiny_model, tmp_path)
    clip = study.held_out(1)[0]
    assert segments.section(study, FULL) is None
    fake(study, clip, segments.THIRDS, segments.XI, 0.45, 0.04)
    fake(study, clip, segments.FLAT, 0.05, 0.3, 0.02)
    fake(study, clip, segments.FLAT, 0.075, 0.5, 0.06)
    row = segments.compare(study, clip)
    assert row["flat_at_equal_error"] == pytest.approx(0.4)
    assert row["gain"] == pytest.approx(0.45 / 0.4)


def test_growth_of_a_constant_share_is_quadratic(tiny_model, tmp_path):
    study = tiny_study(tiny_model, tmp_path)
    options = replace(FULL, clips=2, errors=(0.05,), frames=(4, 8, 16))
    for clip in growth.clips_of(study, options):
        tokens = study.tokens(clip)
        fake(study, clip, replace(PAPER, name="dense"), 0.0, 0.0, 0.0, seconds=tokens**1.9)
        fake_line(study, clip, PAPER, 0.25, seconds=tokens**1.8)
        fake_line(study, clip, METHODS["alternating"], 1 - 8 / math.sqrt(tokens))
    paper, alternating = growth.section(study, options).data["exponents"]
    assert paper["computed"]["mean"] == pytest.approx(2)
    assert paper["computed"]["high"] == pytest.approx(2)
    assert paper["seconds"]["mean"] == pytest.approx(1.8)
    assert paper["dense_seconds"]["mean"] == pytest.approx(1.9)
    assert alternating["computed"]["mean"] == pytest.approx(1.5)


# Fields


def tiles_of(*chosen):
    """Of each row of tiles of one step: those in ``chosen``."""
    row = torch.zeros(16, dtype=torch.bool)
    row[list(chosen)] = True
    return row


def test_masses_are_shares_of_the_softmax():
    for make in fields.FIELDS.values():
        torch.testing.assert_close(
            fields.masses(*make(16)(3)).sum(1), torch.ones(16, dtype=torch.float64)
        )


def test_only_the_columns_that_all_look_at_matter():
    assert (~fields.truth(fields.columns(0))[0] == tiles_of(4, 5)).all()
    assert (~fields.truth(fields.columns(64))[2] == tiles_of(6, 7)).all()
    assert (~fields.truth(fields.columns(16))[2] == tiles_of(4, 5, 6)).all()


def test_a_block_matters_and_so_does_all_that_flat_rows_see():
    negligible = fields.truth(fields.block(64))[1]
    inside = tiles_of(*range(4, 10))
    assert not negligible[~inside].any()
    assert (negligible[inside] == ~tiles_of(*range(5, 11))).all()


def test_a_band_matters_near_its_diagonal():
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    still = fields.truth(fields.band(0))[0]
    assert not still[(rows - columns).abs() == 0].any()
    assert still[(rows - columns).abs() > 3].all()
    moved = fields.truth(fields.band(64))[2]  # by two tiles: query i looks at key i - 128
    assert (moved[2:, :14] == still[2:, 2:]).all()


def test_nothing_of_flat_noise_is_negligible():
    assert not fields.truth(fields.noise(1))[5].any()


def test_exact_masses_drop_what_is_negligible_and_no_more():
    for name in ("band", "columns", "block"):
        field = fields.FIELDS[name](0)
        negligible = fields.truth(field)
        dropped, lost = fields.measure(field, fields.RULES["mean mass, -10"])
        assert (dropped[1:] == negligible[1:]).all()
        assert not dropped[0].any()
        most = float(negligible[0].sum(1).max()) * fields.NEGLIGIBLE
        assert 0 < lost[-1] <= most + 1e-6


def test_the_lse_reference_drops_all_that_flat_rows_see():
    dropped, lost = fields.measure(fields.block(0), fields.RULES["lse, -8"])
    assert dropped[-1][0].all()
    spared, little = fields.measure(fields.block(0), fields.RULES["paper, -8"])
    assert not spared[-1][0].any()
    assert lost[-1] > 0.5 > little[-1]


def test_probes_find_what_has_moved():
    lost = {
        rule: fields.measure(fields.columns(16), fields.RULES[rule])[1][-1]
        for rule in ("paper, -8", "probes 1/4, -8")
    }
    assert lost["probes 1/4, -8"] < 0.5 * lost["paper, -8"]


# The command line


def test_a_part_from_end_to_end(tiny_model, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["fields", "--model", str(tiny_model), "--out", str(out)]) == 0
    assert "band: negligible" in capsys.readouterr().out
    record = json.loads((out / "study.json").read_text())
    assert record["command"].startswith("python -m benchmarks.lite_study fields")
    assert record["saccade"]["commit"]
    assert len(record["parts"]["fields"]) == 4 * 2 * len(fields.RULES)
    page = (out / "study.html").read_text()
    assert "<svg" in page
    assert not re.findall(r"""(?:src|href)=["']http|url\(http""", page)


def test_a_report_of_nothing_draws_nothing(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    parts = [name for name in PARTS if name != "fields"]
    arguments = ["--report", "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert main([*parts, *arguments]) == 0
    assert json.loads((tmp_path / "out" / "study.json").read_text())["parts"] == {}


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["ruls"])
    assert "'ruls' is none of rules" in capsys.readouterr().err

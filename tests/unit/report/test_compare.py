"""Paired comparisons against numbers made by hand, against scipy, and for what must never be paired."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from gsam.report.compare import compare
from gsam.report.compare_text import terminal
from gsam.report.figures import differences
from gsam.report.predictions import file_name, save
from gsam.report.stats import bootstrap_means, holm, mcnemar, percentile95, wilson
from gsam.report.write import png

from . import cards

ROOT = Path(__file__).parents[3]


def store(folder, row, correct, nll=None, pictures="0a1b2c3d", index=None, file=None, **facts):
    """A row of results.jsonl with its predictions; top-1 and n as they follow from `correct`."""
    correct = np.asarray(correct, bool)
    row = {**row, "n": len(correct), "top1": float(correct.mean()), "pictures": pictures, **facts}
    row["predictions"] = f"predictions/{file or file_name(row)}"
    n = len(correct)
    arrays = {"index": np.arange(n) if index is None else index, "label": np.zeros(n), "correct": correct}
    nll = np.where(correct, 0.5, 2.0) if nll is None else nll
    save(folder / row["predictions"], **arrays, top5=np.zeros((n, 5)), nll=nll, pictures=pictures)
    with open(folder / "results.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")


def two_models(tmp_path, row, a, b, **facts):
    folders = tmp_path / "a", tmp_path / "b"
    for folder, correct in zip(folders, (a, b), strict=True):
        store(folder, row, correct, **facts)
    return folders


# Of 20 pictures both are right on 8, A alone on 2, B alone on 9, neither on 1.
A = [1] * 8 + [1] * 2 + [0] * 9 + [0]
B = [1] * 8 + [0] * 2 + [1] * 9 + [0]


def test_against_numbers_made_by_hand(tmp_path):
    a, b = two_models(tmp_path, cards.clean("imagenet", m=64)[0], A, B)
    (one,) = compare(a, b).sets
    assert all(", m = 64, " in name for name in compare(a, b).names)
    assert (one.a, one.b, one.difference) == (0.5, 0.85, pytest.approx(0.35))
    assert (one.only_a, one.only_b) == (2, 9)
    # Two-sided binomial: 2 (C(11,0) + C(11,1) + C(11,2)) / 2^11 = 2 (1 + 11 + 55) / 2048
    assert one.p == pytest.approx(134 / 2048) and one.p_holm == one.p
    assert one.nll == pytest.approx(-0.35 * 1.5)  # 0.5 nats where right, 2 where wrong
    assert one.low < 0.35 < one.high and one.nll_low < one.nll < one.nll_high < 0


def test_a_model_against_itself_differs_in_nothing(tmp_path):
    a, _ = two_models(tmp_path, cards.clean("imagenet")[0], A, B)
    (one,) = compare(a, a).sets
    assert (one.difference, one.low, one.high, one.nll, one.nll_low, one.nll_high) == (0, 0, 0, 0, 0, 0)
    assert (one.p, one.only_a, one.only_b) == (1.0, 0, 0)


def test_swapping_the_models_turns_the_signs(tmp_path):
    a, b = two_models(tmp_path, cards.clean("imagenet")[0], A, B)
    (one,), (other,) = compare(a, b).sets, compare(b, a).sets
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low)) and one.p == other.p
    assert one.difference == -other.difference and (one.only_a, one.only_b) == (other.only_b, other.only_a)


def test_intervals_are_scipys_paired_bootstrap():
    rng = np.random.default_rng(0)
    difference = rng.choice([-1, 0, 1], 800, p=[0.1, 0.7, 0.2])
    nats = rng.normal(0.3, 1.0, 800)
    draws = bootstrap_means(np.stack([difference, nats], axis=1), 4000, seed=1)
    for column, values in zip(draws.T, (difference, nats), strict=True):
        theirs = scipy.stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2)
        assert percentile95(column) == pytest.approx(tuple(theirs.confidence_interval), abs=0.004)
        assert column.std() == pytest.approx(values.std() / np.sqrt(800), rel=0.05)
    assert np.array_equal(draws, bootstrap_means(np.stack([difference, nats], axis=1), 4000, seed=1))


def test_tests_against_published_definitions():
    assert mcnemar(0, 0) == 1.0 and mcnemar(5, 5) == 1.0 and mcnemar(0, 6) == pytest.approx(2 / 64)
    # Holm: 0.01 x 3; then 0.02 x 2 = 0.04; then 0.03 x 1 = 0.03, which may not be below the one before it.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_wilson_interval():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I: 81 of 263, 15 of 148, 1 of 29
    for hits, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)):
        assert wilson(hits / n, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1.0, 20)[1] == 1.0 and wilson(0.0, 20)[0] == 0.0
    assert wilson(0.0, 200)[0] == 0.0  # where centre - half is 3e-18
    with pytest.raises(ValueError, match="n >= 1"):
        wilson(0.5, 0)


def test_means_over_corruptions_draw_the_same_pictures_for_all(tmp_path):
    """Five severities with the same outcome per picture are one observation per picture, not five: the interval of the mean is
    that of a single severity."""
    rng = np.random.default_rng(0)
    correct = rng.random(400) < 0.5, rng.random(400) < 0.6
    rows = cards.corrupted(corruptions=("snow", "fog"))
    for row in rows:
        two_models(tmp_path, row, *correct)
    found = compare(tmp_path / "a", tmp_path / "b")
    assert len(found.sets) == 10 and [one.label for one in found.means] == [
        "ImageNet-C-official, mean of 10", "ImageNet-C-official snow, mean of 5", "ImageNet-C-official fog, mean of 5",
    ]  # fmt: skip
    mean, single = found.means[0], found.sets[0]
    assert (mean.difference, mean.low, mean.high) == pytest.approx((single.difference, single.low, single.high))
    assert mean.p is None and mean.passes == 10 and single.p_holm == pytest.approx(min(1, 10 * single.p))


def test_a_file_of_another_row_is_noticed(tmp_path):
    row = cards.clean("imagenet")[0]
    a, b = two_models(tmp_path, row, A, B, file="one.npz")
    store(tmp_path / "c", row, B[:10])
    (replaced,) = (tmp_path / "c" / "predictions").iterdir()
    replaced.replace(b / "predictions" / "one.npz")
    with pytest.raises(ValueError, match="is not of the row in results.jsonl: a later evaluation of ImageNet"):
        compare(a, b)


def test_the_extra_corruptions_and_generated_copies_are_never_averaged_in(tmp_path):
    for row in cards.corrupted(corruptions=("snow", "spatter")) + cards.corrupted(
        "imagenet_c_generated", "generated", ("snow",)
    ):
        two_models(tmp_path, row, A, B)
    assert [one.label for one in compare(tmp_path / "a", tmp_path / "b").means] == [
        "ImageNet-C-official, mean of 5",
        "ImageNet-C-official snow, mean of 5",
        "ImageNet-C-official, 4 extra, mean of 5",
        "ImageNet-C-official, 4 extra spatter, mean of 5",
        "ImageNet-C-generated, on the fly, mean of 5",
        "ImageNet-C-generated, on the fly snow, mean of 5",
    ]


def test_a_trial_on_a_few_pictures_does_not_hide_the_whole_set(tmp_path):
    row = cards.clean("imagenet")[0]
    a, b = two_models(tmp_path, row, A, B)
    store(a, row, A[:10], pictures="ffffffff", settings="limit 10", file="trial.npz")
    assert [(one.n, one.only_b) for one in compare(a, b).sets] == [(20, 9)]
    store(b, row, B[:10], pictures="ffffffff", settings="limit 10", file="trial.npz")
    assert [one.n for one in compare(a, b).sets] == [20] == [one.n for one in compare(b, a).sets]


@pytest.mark.parametrize("changes", [{"pictures": "ffffffff"}, {"index": np.arange(20) + 1}], ids=["files", "subset"])
def test_different_pictures_are_refused(changes, tmp_path):
    store(tmp_path / "a", cards.clean("imagenet")[0], A)
    store(tmp_path / "b", cards.clean("imagenet")[0], B, **changes)
    with pytest.raises(ValueError, match="ImageNet: .* were evaluated on different pictures or labels"):
        compare(tmp_path / "a", tmp_path / "b")


def test_a_choice_is_asked_for_and_what_is_missing_is_named(tmp_path):
    row = cards.clean("imagenet")[0]
    for folder, facts in (("a", {}), ("a", {"weights": "ema"}), ("b", {}), ("c", {"checkpoint": "best.pt"})):
        store(tmp_path / folder, {**row, "checkpoint": "last.pt", **facts}, A if not facts else B)
    a, b, c = (tmp_path / name for name in "abc")
    with pytest.raises(
        ValueError, match="results of ema weights of last.pt, raw weights of last.pt; choose with .*a@raw"
    ):
        compare(a, b)
    assert compare(f"{a}@raw", b).sets[0].difference == 0 and compare(f"{a}@ema", f"{a}@raw").sets[0].only_b == 2
    with pytest.raises(ValueError, match="there are results of raw weights of best.pt"):
        compare(b, c, checkpoint="last.pt")
    with pytest.raises(ValueError, match="none: no results.jsonl with predictions .* give a run folder"):
        compare(tmp_path / "none", b)
    store(tmp_path / "d", cards.clean("imagenet_v2")[0], A)
    with pytest.raises(ValueError, match="share no set with predictions"):
        compare(b, tmp_path / "d")
    store(b, cards.clean("imagenet_v2")[0], A, checkpoint="last.pt", precision="bf16")
    store(c, cards.clean("imagenet_v2")[0], A, checkpoint="best.pt")
    found = compare(b, c)
    left_out = f"{b}: left out: 1 result with precision fp32 (not bf16)"
    assert found.notes == [left_out, "not the same precision: bf16 and fp32"]
    assert found.unpaired == [f"ImageNet: only in {c}"]
    with pytest.raises(ValueError, match=r"share no set .*\n.*left out: 1 result with precision fp32 \(not bf16\)"):
        compare(f"{a}@raw", b)
    assert compare(f"{a}@raw", b, precision="fp32").sets[0].label == "ImageNet"
    with pytest.raises(ValueError, match="no results with --precision fp16; there are results with bf16, fp32"):
        compare(b, b, precision="fp16")


def test_two_models_or_steps_in_one_folder_never_share_a_table(tmp_path):
    """The last row says which one; the sets of an earlier step of the same checkpoint file are not filled in."""
    row = {**cards.clean("imagenet")[0], "checkpoint": "last.pt"}
    mixed, other = tmp_path / "mixed", tmp_path / "other"
    for name in ("imagenet", "imagenet_v2", "imagenet_sketch"):
        store(other, {**row, "evalset": name}, B)
    store(mixed, {**row, "evalset": "imagenet_v2", "step": 10}, A)
    store(mixed, {**row, "evalset": "imagenet_sketch", "step": 20, "model": "vit"}, A)
    store(mixed, {**row, "step": 20}, A)
    store(mixed, {**row, "evalset": "imagenet_v2", "step": 20, "flip_tta": True}, A)
    found = compare(mixed, other)
    assert [one.label for one in found.sets] == ["ImageNet"]
    assert [line.removeprefix(f"{mixed}: ") for line in found.notes] == [
        "left out: 1 result with step 10 (not 20)", "left out: 1 result with model vit (not resnet50.a1_in1k)",
    ]  # fmt: skip
    assert f"ImageNet-V2 matched frequency with flip TTA: only in {mixed}" in found.unpaired


def test_table_and_picture(tmp_path):
    rng = np.random.default_rng(0)
    for row in cards.clean() + cards.corrupted() + cards.extra():
        hard = rng.random(300)
        two_models(tmp_path, row, hard < row["top1"], hard + rng.normal(0, 0.05, 300) < row["top1"] + 0.02)
    found = compare(tmp_path / "a", tmp_path / "b", resamples=300)
    text = terminal(found)
    assert "McNemar's exact test" in text and "ImageNet-C-official, mean of 75" in text and "…" not in text
    figure = differences.draw(found)
    assert Image.open(io.BytesIO(png(figure))).size[0] == 1100
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()][:2] == ["ImageNet", "ImageNet-ReaL"]


def script(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_script(tmp_path):
    a, b = two_models(tmp_path, cards.clean("imagenet")[0], A, B)
    done = script(a, b, "--png", tmp_path / "out" / "d.png")
    assert done.returncode == 0 and "+35.00" in done.stdout and "0.065" in done.stdout, done.stderr
    assert (tmp_path / "out" / "d.png").read_bytes().startswith(b"\x89PNG")
    done = script(a, b, "--json")
    assert json.loads(done.stdout)["sets"][0]["only_b"] == 9
    failed = script(a, tmp_path / "none")
    assert failed.returncode == 2 and failed.stderr.startswith("error: ") and "Traceback" not in failed.stderr
    assert "McNemar" in script("--help").stdout

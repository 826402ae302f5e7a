import csv
import io
import json
import math
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from gsam.report.figures import training_curves
from gsam.report.imagenet_c import ALEXNET, EXTRA
from gsam.report.load import read_run, read_runs
from gsam.report.render import as_csv, markdown, records
from gsam.report.stats import wilson
from gsam.report.tables import METHODS, build_table, method_of
from gsam.report.write import make_report, write_docs

from . import cards

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "quickstart"
CORRUPTIONS = ["gaussian_noise", "defocus_blur", "contrast", "jpeg_compression"]


@pytest.fixture
def runs_folder(tmp_path):
    shutil.copytree(GOLDEN, tmp_path / "runs" / "quickstart")
    return tmp_path / "runs"


def folders(runs_folder, method):
    return [run.folder for run in read_runs(runs_folder) if method_of(run) == method]


def append(path, *rows):
    with open(path, "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def cell(table, method, evalset, corruption):
    column = [column.method for column in table.columns].index(method)
    return next(row for row in table.rows if (row.evalset, row.corruption) == (evalset, corruption)).cells[column]


def top1_of(folder, corruption):
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    return next(row["top1"] for row in rows if row["corruption"] == corruption)


def test_official_and_generated_corruptions_and_flip_tta_have_rows_of_their_own(runs_folder):
    """One run has the official copies, the other ones made here: not one row, and no mean over both."""
    origins = ("official", "generated")
    for folder, origin, top1 in zip(folders(runs_folder, "sam"), origins, (0.5, 0.3), strict=True):
        append(folder / "results.jsonl", *cards.corrupted(origin=origin, checkpoint="last.pt", step=1404))
        flipped = cards.row("imagenet", 50_000, top1, checkpoint="last.pt", step=1404, flip_tta=True)
        append(folder / "results.jsonl", flipped, {**flipped, "flip_tta": False, "top1": 0.7})
    table = build_table(read_runs(runs_folder))
    for origin in origins:
        found = cell(table, "sam", f"imagenet_c (C-{origin})", "mean")
        assert found.seeds == 1 and found.top1 == pytest.approx(statistics.fmean(r["top1"] for r in cards.corrupted()))
    assert not [row for row in table.rows if row.evalset == "imagenet_c"]
    assert cell(table, "sam", "imagenet (flip TTA)", None).top1 == pytest.approx(0.4)
    assert cell(table, "sam", "imagenet", None).top1 == pytest.approx(0.7)


def test_the_mean_over_imagenet_c_leaves_the_extra_corruptions_out(runs_folder):
    (folder,) = folders(runs_folder, "gsam")
    rows = cards.corrupted(corruptions=(*ALEXNET, *EXTRA), checkpoint="last.pt", step=1404)
    append(folder / "results.jsonl", *rows)
    table = build_table(read_runs(runs_folder))
    main = statistics.fmean(row["top1"] for row in rows if row["corruption"] in ALEXNET)
    assert cell(table, "gsam", "imagenet_c (C-official)", "mean").top1 == pytest.approx(main)
    assert cell(table, "gsam", "imagenet_c (C-official) (extra)", "mean").seeds == 1


def test_runs_are_found_from_either_folder(runs_folder):
    runs = read_runs(runs_folder)
    assert [run.folder for run in runs] == [run.folder for run in read_runs(runs_folder / "quickstart")]
    assert sorted(map(method_of, runs)) == ["gsam", "sam", "sam", "vanilla", "vanilla"]
    assert all(run.done and not run.problems and run.train and run.evals and run.results for run in runs)
    assert runs[0].setting("optimizer.nothing.here", 3) == 3


def test_table_has_the_shape_and_the_numbers(runs_folder):
    table = build_table(read_runs(runs_folder))
    assert [column.method for column in table.columns] == list(METHODS)
    assert [column.label for column in table.columns] == ["Vanilla (SGD)", "SAM", "GSAM"]
    assert [row.corruption for row in table.rows] == [None, *CORRUPTIONS, "mean"]
    one, two = (top1_of(folder, "contrast") for folder in folders(runs_folder, "sam"))
    found = cell(table, "sam", "fashion_mnist_c", "contrast")
    assert found.top1 == pytest.approx((one + two) / 2) and found.seeds == 2 and found.n == 2000
    assert found.spread == pytest.approx(abs(one - two) / math.sqrt(2))  # sample standard deviation of two
    (folder,) = folders(runs_folder, "gsam")
    found = cell(table, "gsam", "fashion_mnist_c", "mean")
    assert found.top1 == pytest.approx(statistics.fmean(top1_of(folder, name) for name in CORRUPTIONS))
    assert found.seeds == 1 and (found.low, found.high) == pytest.approx(wilson(found.top1, 2000), rel=1e-9)
    text = markdown(table)
    assert f"{100 * found.top1:.2f} ({100 * found.low:.2f}–{100 * found.high:.2f})" in text
    assert (
        "± with the standard deviation over the seeds or (low–high) with the 95 % Wilson interval of the one run"
        in text
    )
    images, minutes = table.columns[2].cost()
    assert images == 1404 * 128 * 2 and 0.5 < minutes < 5


def test_what_is_missing_reads_not_run(runs_folder):
    (folder,) = folders(runs_folder, "gsam")
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(line for line in lines if "jpeg_compression" not in line))
    table = build_table(read_runs(runs_folder))
    assert cell(table, "gsam", "fashion_mnist_c", "jpeg_compression") is None
    assert cell(table, "gsam", "fashion_mnist_c", "mean") is None  # a mean over three is not the mean over four
    assert cell(table, "gsam", "fashion_mnist_c", "contrast") is not None
    assert markdown(table).count("not run") == 2
    shutil.rmtree(folder)
    text = markdown(build_table(read_runs(runs_folder)))
    assert "| GSAM |" in text and text.count("not run") == 6 + 3  # six rows of results, three of costs


def test_a_cut_off_last_line_is_dropped_and_a_damaged_one_is_reported(runs_folder):
    folder = folders(runs_folder, "sam")[0]
    whole = read_run(folder)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 9999, "lo')
    cut = read_run(folder)
    assert cut.train == whole.train and not cut.problems
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('\n{"kind": "train", "step": 10000, "epoch": 9.0, "loss": 0.1}\n')
    damaged = read_run(folder)
    assert len(damaged.train) == len(whole.train) + 1
    assert damaged.problems == [
        f"metrics.jsonl line {len(whole.train) + len(whole.evals) + 1} is no JSON and was skipped"
    ]


def test_a_later_row_replaces_an_earlier_one(runs_folder):
    folder = folders(runs_folder, "gsam")[0]
    before = read_run(folder)
    append(folder / "results.jsonl", {**before.results[0], "top1": 0.5})
    append(folder / "metrics.jsonl", {**before.train[3], "loss": 7.0})
    after = read_run(folder)
    assert len(after.results) == len(before.results) and after.results[-1]["top1"] == 0.5
    assert len(after.train) == len(before.train)
    assert [row["step"] for row in after.train] == sorted(row["step"] for row in after.train)
    assert next(row for row in after.train if row["step"] == before.train[3]["step"])["loss"] == 7.0
    assert cell(build_table([after]), "gsam", "fashion_mnist", None).top1 == 0.5


def test_results_of_other_weights_checkpoints_and_steps_are_kept_apart(runs_folder):
    folder = folders(runs_folder, "gsam")[0]
    row = read_run(folder).results[0]
    append(
        folder / "results.jsonl", {**row, "weights": "ema", "top1": 0.6}, {**row, "checkpoint": "best.pt", "top1": 0.7}
    )
    append(folder / "results.jsonl", {**row, "step": 10, "top1": 0.1})  # an early evaluation of last.pt, run again
    runs = [read_run(folder)]
    assert cell(build_table(runs), "gsam", "fashion_mnist", None).top1 == row["top1"]
    assert cell(build_table(runs, weights="ema"), "gsam", "fashion_mnist", None).top1 == 0.6
    assert cell(build_table(runs, checkpoint="best.pt"), "gsam", "fashion_mnist", None).top1 == 0.7
    with pytest.raises(ValueError, match="there are results with ema weights of last.pt, raw weights of best.pt, raw"):
        build_table(runs, weights="ema", checkpoint="best.pt")


def test_other_settings_are_no_seeds(runs_folder):
    folder = folders(runs_folder, "sam")[0]
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("rho_max: 0.1", "rho_max: 0.2"))
    table = build_table(read_runs(runs_folder))
    sam = [column for column in table.columns if column.method == "sam"]
    assert sorted(column.label for column in sam) == ["SAM [optimizer.rho_max=0.1]", "SAM [optimizer.rho_max=0.2]"]
    assert all(len(column.runs) == 1 for column in sam)


def test_missing_and_incomplete_folders_say_so(tmp_path, runs_folder):
    with pytest.raises(ValueError, match="does not exist"):
        read_runs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no run found"):
        read_runs(tmp_path / "empty")
    with pytest.raises(ValueError, match="has no config.yaml"):
        read_run(tmp_path / "empty")
    folder = folders(runs_folder, "gsam")[0]
    for name in ("DONE", "meta.json", "metrics.jsonl", "results.jsonl"):
        (folder / name).unlink()
    assert read_run(folder).problems == [
        "meta.json is missing",
        "metrics.jsonl is missing",
        "not finished (no file DONE)",
    ]
    with pytest.raises(ValueError, match="evaluate them first"):
        build_table([read_run(folder)])
    with pytest.raises(ValueError, match="nothing to draw"):
        training_curves.draw([read_run(folder)])


def test_records_and_csv_say_the_same(runs_folder):
    table = build_table(read_runs(runs_folder))
    rows = records(table)
    assert len(rows) == len(table.rows) * len(table.columns)
    parsed = list(csv.DictReader(io.StringIO(as_csv(rows))))
    for row, text in zip(rows, parsed, strict=True):
        assert {key: "" if value is None else str(value) for key, value in row.items()} == text
    assert {(row["seeds"], row["spread"] is None, row["low"] is None) for row in rows} == {
        (1, True, False),
        (2, False, True),
    }


def test_figure_has_a_line_per_method_where_it_has_data(runs_folder):
    axes = training_curves.draw(read_runs(runs_folder)).axes
    thick = {axis.get_title(loc="left"): sum(line.get_linewidth() >= 2 for line in axis.lines) for axis in axes}
    assert thick == {
        "Training loss": 3,
        "Accuracy by data seen": 3,
        "Accuracy by cost": 3,
        "Surrogate gap": 2,
        "Gradient angle": 2,
        "Radius": 2,
    }
    assert all(axis.get_xlabel() and axis.get_ylabel() for axis in axes)


def test_figure_of_vanilla_alone_says_what_it_lacks(runs_folder):
    axes = training_curves.draw([run for run in read_runs(runs_folder) if method_of(run) == "vanilla"]).axes
    assert [axis.texts[0].get_text() for axis in axes if axis.texts] == ["no data in these runs"] * 3


def test_a_diverged_run_is_drawn(runs_folder):
    folder = folders(runs_folder, "gsam")[0]
    last = read_run(folder).train[-1]
    append(folder / "metrics.jsonl", {**last, "step": 9999, "loss": math.nan, "gap": math.inf, "epoch": 3.1})
    make_report("quickstart", runs_folder)


def test_report_and_page(tmp_path, runs_folder):
    report = make_report("quickstart", runs_folder)
    folder = runs_folder / "quickstart" / "report"
    assert {path.name for path in folder.iterdir()} == {"report.md", "report.jsonl", "report.csv", "curves.png"}
    with Image.open(folder / "curves.png") as picture:
        assert picture.size[0] > 1000
    assert [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()] == records(report.table)
    write_docs(report, tmp_path / "docs" / "quickstart.md", ["bash scripts/quickstart.sh"])
    page = (tmp_path / "docs" / "quickstart.md").read_text()
    assert page.startswith("<!-- Generated by") and "bash scripts/quickstart.sh" in page
    assert "![Training curves](img/quickstart.png)" in page and "3f2c9a7be1d0" in page and "2.14.1" in page
    assert (tmp_path / "docs" / "img" / "quickstart.png").read_bytes() == report.curves
    assert "Incomplete runs" not in page
    # The report's own files are no run; written again, they are the same bytes.
    assert make_report("quickstart", runs_folder).curves == report.curves


def script(*arguments, cwd):
    command = [sys.executable, str(ROOT / "scripts" / "report.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_script(tmp_path, runs_folder):
    (folders(runs_folder, "sam")[0] / "DONE").unlink()
    done = script("quickstart", "--docs", "docs/quickstart.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "GSAM" in done.stdout and "92.01" in done.stdout and "incomplete: " in done.stdout
    assert "## Incomplete runs" in (tmp_path / "docs" / "quickstart.md").read_text()


def test_script_without_runs_says_what_to_do(tmp_path):
    failed = script("quickstart", cwd=tmp_path)
    assert failed.returncode == 2 and failed.stderr.startswith("error: ") and "train first" in failed.stderr
    assert "Traceback" not in failed.stderr

"""The committed results: runs to records and back, a repetition beside its record."""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from gsam import runs
from gsam.catalogue import entries, expected
from gsam.report.figures import fig5, fig6, fig9, rows
from gsam.report.load import read_run
from gsam.report.matching import find_runs, settings
from gsam.report.mini import records
from gsam.report.mini.claims import TABLE1, claims
from gsam.report.mini.measured import Measured
from gsam.report.mini.page import build, listed
from gsam.report.page import Picture, markdown
from gsam.report.paper_table import table
from tests.runs import train

ROOT = Path(__file__).parents[2]
EXPERIMENT = "mini/table1/vit_sam"


@pytest.fixture(scope="module")
def trained(fashion_root, tmp_path_factory) -> Path:
    """A folder of runs with a short miniature of two seeds, and one that is not finished."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        short(root, fashion_root, seed)
    short(root, fashion_root, 2).folder.path.joinpath("DONE").unlink()
    return root


def short(root: Path, fashion_root: Path, seed: int):
    return train(f"paths.fashion_mnist={fashion_root}", f"run.root={root}", f"train.seed={seed}", "train.epochs=4st",
                 "train.log_every=2st", "train.eval_every=4st", "data.limit_eval=200", "data.backend=folder", "data.workers=0",
                 "schedule.warmup_steps=1", experiment=EXPERIMENT)  # fmt: skip


def test_records_give_the_run_folders_back_and_none_is_dropped(trained, tmp_path):
    results = tmp_path / "results"
    ((file, count, new),) = records.pack(trained, results)
    assert (file, count, new) == (results / "mini" / "table1.jsonl", 2, 2)  # the third is not finished
    first = json.loads(file.read_text().splitlines()[0])
    assert {"config_hash", "git_hash", "seed", "device", "processor", "versions", "config", "metrics"} <= first.keys()
    assert "checkpoint" not in first and "paths" not in first["config"] and len(file.read_text()) < 40_000

    again = tmp_path / "again"
    assert records.unpack(results, again) == 2 and records.unpack(results, again) == 0
    for folder in again.glob(f"{EXPERIMENT}/*"):
        there, back = read_run(trained / folder.relative_to(again)), read_run(folder)
        assert there.config.pop("paths")  # of this machine
        assert (there.config, there.meta, there.train, there.evals) == (back.config, back.meta, back.train, back.evals)
        assert back.done
    before = file.read_text()
    assert [one[1:] for one in records.pack(again, results)] == [(2, 0)] and file.read_text() == before

    folder = next(iter(sorted(again.glob(f"{EXPERIMENT}/*"))))
    (folder / "results.jsonl").write_text('{"kind": "result", "evalset": "more"}\n')  # evaluated since
    assert [one[1:] for one in records.pack(again, results)] == [(2, 1)]
    for other in again.glob(f"{EXPERIMENT}/*"):
        if other != folder:
            (other / "DONE").unlink()
    assert [one[1:] for one in records.pack(again, results)] == [(2, 0)]  # what is gone from runs/ stays in the record


def test_a_repetition_is_told_from_its_record(trained, tmp_path):
    results = tmp_path / "results"
    list(records.pack(trained, results))
    found = records.compare(trained, results)
    assert [(one.seed, one.identical, one.same_processor, one.agrees) for one in found] == [
        (s, True, True, True) for s in (0, 1)
    ]

    file = results / "mini" / "table1.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    evals = [row for row in lines[0]["metrics"] if row["kind"] == "eval"]
    evals[-1]["top1"] += 0.004  # on the same processor no difference is allowed
    lines[1]["processor"] = "another"
    [row for row in lines[1]["metrics"] if row["kind"] == "eval"][-1]["top1"] += 0.004
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(one.agrees, round(one.again - one.recorded, 2)) for one in records.compare(trained, results)] == [
        (False, -0.4), (True, -0.4),
    ]  # fmt: skip
    shown = script("compare", f"--runs={trained}", f"--results={results}")
    assert shown.returncode == 1 and "DIFFERS" in shown.stdout and "one name to several kinds" in shown.stdout

    list(records.pack(trained, tmp_path / "more"))  # the same log, but another loss on corrupted pictures
    file = tmp_path / "more" / "mini" / "table1.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    result = {"evalset": "c", "corruption": "fog", "severity": 1, "top1": 0.5, "nll": 1.5}
    for folder in trained.glob(f"{EXPERIMENT}/*"):
        (folder / "results.jsonl").write_text(json.dumps(result) + "\n")
    lines[0]["results"], lines[1]["results"] = [result], [result | {"nll": 1.6}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [one.identical for one in records.compare(trained, tmp_path / "more")] == [True, False]
    for folder in trained.glob(f"{EXPERIMENT}/*"):
        (folder / "results.jsonl").unlink()


def test_wrong_inputs_say_what_to_do(tmp_path):
    for words, message in (
        (["unpack", f"--results={tmp_path}"], "no records"),
        (["pack", f"--runs={tmp_path}/none"], "no folder; give the one that holds the runs"),
        (["compare", f"--runs={tmp_path}"], "no finished miniature"),
    ):
        shown = script(*words)
        assert shown.returncode == 2 and shown.stderr.startswith("error: ") and message in shown.stderr
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "fig4.jsonl").write_text('{"experiment": "mini/fig4"}\n')
    assert "line 1: not the record of a run" in script("unpack", f"--results={tmp_path}").stderr


def test_a_run_that_is_not_finished_or_damaged_has_no_record(tmp_path):
    assert runs.pack(tmp_path) is None


def script(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "scripts/results.py", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_page_is_made_of_the_records(tmp_path):
    """docs/results.md is what they give today, its pictures are there, and the search stands in it as it was recorded: of
    every training the last evaluation, which is on held-out pictures."""
    records.unpack(ROOT / "results", tmp_path)
    page = build(tmp_path)
    text = markdown(page, records.HEADER)
    assert text == (ROOT / "docs" / "results.md").read_text().replace("](img/results/", "](")
    pictures = {block.name for block in page.blocks if isinstance(block, Picture)}
    assert {path.name for path in (ROOT / "docs" / "img" / "results").iterdir()} == pictures
    recorded = records.read(ROOT / "results" / "mini" / "search.jsonl")
    assert recorded
    for record in recorded:
        last = [row for row in record["metrics"] if row["kind"] == "eval"][-1]
        iterations = record["config"]["optimizer"].get("iterations")  # Entropy-SGD: batches per step, 80 epochs
        assert last["evalset"] == "holdout" and last["step"] == (3125 // iterations if iterations else 1562)
        assert re.search(rf" \| 1 \| (\*\*)?{100 * last['top1']:.2f}(\*\*)? \| ", text)
    assert not any("/" == record["config"]["run"]["root"][0] for record in recorded)  # no place on a machine


def test_the_readme_says_what_the_records_say(tmp_path):
    """Its words on Table 1, by the rule of the page."""
    records.unpack(ROOT / "results", tmp_path)
    measured = Measured(find_runs(tmp_path, [entries("mini/")["mini/table1"]]))
    table1 = [claim for claim in claims(measured) if claim.topic == TABLE1]
    assert {len(claim.values) for claim in table1} == {5, 8} and len(table1) == 18
    decided = {claim.says: claim.verdict for claim in table1 if claim.verdict != "undecided"}
    cost = "is above vanilla at equal gradient evaluations"
    assert decided == {
        f"SAM {cost}: Mixer, test pictures": "supported",
        f"SAM {cost}: Mixer, corrupted pictures": "supported",
        f"GSAM {cost}: Mixer, test pictures": "supported",
        f"GSAM {cost}: Mixer, corrupted pictures": "supported",
        f"SAM {cost}: ViT, corrupted pictures": "supported",
        f"GSAM {cost}: ResNet, corrupted pictures": "not supported",
    }
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert (
        "at equal gradient evaluations SAM and GSAM are above vanilla on the Mixer, and SAM on the ViT's corrupted pictures; "
        "GSAM is below vanilla on the ResNet's. The other 12 of 18 comparisons are undecided, all six of GSAM with SAM among "
        "them."
    ) in readme


def test_a_row_that_a_series_takes_in_stands_among_it_with_its_place():
    """Of Figure 7 the radii of SAM, of which Table 1 has one; and SAM is not shown again for the panel of α."""
    entry = entries("mini/")["mini/fig7"]
    (setting,) = settings(entry, [])
    labels = [point.label for point in listed(entry, setting.points)]
    assert labels[:4] == [f"SAM, ρ = {rho}" for rho in (0.05, 0.1, 0.2, 0.4)]
    assert labels[-4:] == ["vanilla", "GSAM, α = 0.1", "GSAM, α = 0.2", "GSAM, α = 0.4"]
    assert len(labels) == 12


def test_figure_5_does_not_name_the_papers_mixer():
    entry = entries("mini/")["mini/fig5"]
    (setting,) = settings(entry, [])
    assert fig5.draw(setting, table(entry, setting)).get_suptitle() == "Methods"


def test_figure_6_draws_only_the_panels_that_its_entry_has():
    entry = entries("mini/")["mini/fig6"]
    (setting,) = settings(entry, [])
    assert [axis.get_title("left") for axis in fig6.draw(setting, table(entry, setting)).axes] == ["Objectives"]


def test_a_row_is_drawn_as_the_method_that_it_names():
    labels = ("ViT · SAM, ρ = 0.1", "decayed ρ + ascent (GSAM)", "Mixer · ASAM + ascent", "ResNet · vanilla, 80 epochs")
    assert [rows.method(label) for label in labels] == ["SAM", "GSAM", None, "vanilla"]


def test_the_line_of_a_short_log_keeps_its_peak(tmp_path):
    """31 logged steps: the thick line is the mean over seeds as it is."""
    records.unpack(ROOT / "results", tmp_path)
    entry = entries("mini/")["mini/fig9"]
    (setting,) = settings(entry, find_runs(tmp_path, [entry]))
    (axis,) = fig9.draw(setting, table(entry, setting)).axes
    thin = [line.get_ydata() for line in axis.lines if line.get_linewidth() < 1][:5]  # α = 0, of five seeds
    thick = next(line for line in axis.lines if line.get_linewidth() == 2)
    assert max(thick.get_ydata()) == pytest.approx(max(sum(values) / 5 for values in zip(*thin, strict=True)))


def test_what_is_trained_is_what_the_recorded_search_found_best():
    """Of every search, which the records have in full."""
    for row in entries("mini/")["mini/search"].rows:
        places = list(itertools.product(*row.grid().values()))
        found = {}
        for record in records.read(ROOT / "results" / "mini" / "search.jsonl"):
            if record["experiment"] == row.experiment:
                top1 = [line["top1"] for line in record["metrics"] if line["kind"] == "eval"][-1]
                found[tuple(OmegaConf.select(OmegaConf.create(record["config"]), key) for key in row.over)] = top1
        assert found.keys() == set(places), row.experiment
        name = row.experiment.removeprefix("mini/search/")
        (file,) = (ROOT / "configs" / "experiment" / "mini").glob(f"[tf]*/{name}.yaml")
        assert f"# Chosen by experiment={row.experiment}." in file.read_text()
        trained = expected(f"mini/{file.parent.name}/{name}")
        assert found[tuple(trained[key] for key in row.over)] == max(found.values()), file


def test_a_setting_that_two_entries_have_gave_the_same_numbers():
    """GSAM with a constant ρ and α = 0 is SAM (Figure 7, Table 1), with α = 0.1 Table 6's constant ρ with ascent: every logged
    loss, norm and accuracy of every seed, bit for bit."""

    def by_setting(*names: str) -> dict[tuple, list[dict]]:
        found = {}
        for record in (r for name in names for r in records.read(ROOT / "results" / "mini" / f"{name.split('/')[0]}.jsonl")):
            if record["experiment"] in {f"mini/{name}" for name in names}:
                rows = [row for row in record["metrics"] if row["kind"] in ("train", "eval")]
                optimizer = record["config"]["optimizer"]
                found[optimizer["rho"], optimizer.get("alpha", 0.0), record["seed"]] = [
                    {key: value for key, value in row.items() if key not in records.TIMES} for row in rows
                ]
        return found

    figure4 = by_setting("fig4")
    others = by_setting("table1/vit_sam", "fig7/sam_rho", "table6/constant_ascent")
    both = figure4.keys() & others.keys()
    assert len(both) == 12, both
    for setting in both:
        assert figure4[setting] == others[setting], setting

"""The table, the files and the picture of a sweep."""

import csv
import json

import pytest
from rich.console import Console

from gsam.report.figures.sweep import draw
from gsam.sweep.results import best, number, picture, progress, rows, shown, write
from gsam.sweep.study import FAILED
from tests.sweeps import ledger_of, plan_of


def row(state="complete", value=0.5, experiment="quickstart", trial=0, **place):
    """A row of results.jsonl."""
    return {
        "sweep": "test", "trial": trial, "experiment": experiment, "settings": place, "place": place, "state": state,
        "metric": "top1", "set": "val", "value": value if state in ("complete", "pruned") else None, "spread": 0.01,
        "seeds": {"0": value, "1": value}, "runs": [], "attempts": 1, "reason": None,
    }  # fmt: skip


@pytest.fixture
def ledger(tmp_path):
    """rho 0.1 complete with two seeds, 0.2 failed, 0.3 pruned, 0.4 running, 0.5 not taken."""
    one = ledger_of(plan_of(tmp_path, "optimizer.rho=range(0.1,0.6,0.1)", "sweep.seeds=[0,1]"))
    first, failed, pruned, _ = (one.take().trial for _ in range(4))
    for seed, value in enumerate((0.75, 0.25)):
        first.set_user_attr(f"seed {seed}", {"value": value, "run": f"runs/{seed}", "set": "val", "m": 64})
    one.complete(first, 0.5)
    one.fail(failed, FAILED, "seed 0: exit code 2: nan")
    pruned.report(0.125, 0)
    one.pruned(pruned)
    return one


def test_rows_say_what_became_of_every_configuration(ledger):
    table = rows(ledger.plan, ledger.trials())
    assert [each["state"] for each in table] == ["complete", "failed", "pruned", "running", "open"]
    assert [each["settings"]["optimizer.rho"] for each in table] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert [each["value"] for each in table] == [0.5, None, 0.125, None, None]
    assert table[0]["spread"] == pytest.approx(0.3536, abs=1e-4) and table[0]["seeds"] == {"0": 0.75, "1": 0.25}
    assert table[1]["reason"] == "seed 0: exit code 2: nan" and number(table[0]) == "50.00 ± 35.36 %"
    assert best(table, higher=True) is table[0] and [each["m"] for each in table] == [64, None, None, None, None]
    said = progress(ledger.plan, ledger.trials())
    assert said.startswith(
        "2 of 5 done · 1 pruned · 1 failed · 1 running · best 50.00 ± 35.36 % (optimizer.rho=0.1) · about "
    )


def test_files_and_terminal_have_the_same(ledger, tmp_path):
    plan, table = ledger.plan, rows(ledger.plan, ledger.trials())
    write(plan, table)
    picture(plan, table, print)
    assert [json.loads(line) for line in (plan.folder / "results.jsonl").read_text().splitlines()] == table
    with (plan.folder / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert (
        lines[0] | {"trial": "0", "optimizer.rho": "0.1", "m": "64", "value": "0.5", "seed 1": "0.25", "runs": "runs/0 runs/1"}
        == lines[0]
    )
    assert (plan.folder / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    console = Console(width=120, record=True)
    console.print(shown(plan, table))
    text = console.export_text()
    assert f"{plan.config.metric.name}, m = 64 " in text
    assert text.index("50.00 ± 35.36 %") < text.index("12.50 %") < text.index("failed: seed 0: exit code 2: nan")


def test_an_experiment_without_axes_has_a_place_on_those_of_the_others(tmp_path):
    """The recipe of Table 1 is the last point of GSAM's line in figure 7."""
    plan = plan_of(tmp_path, sweep="fig7_rho")
    table = rows(plan, [])
    assert table[-1]["settings"] == {} and table[-1]["place"] == {"optimizer.rho_max": 0.6}
    assert table[0]["place"] == {"optimizer.rho_max": 0.1} and {each["state"] for each in table} == {"open"}


def test_one_axis_is_a_line_per_experiment():
    table = [row(value=0.6 + rho / 10, experiment="sam", **{"optimizer.rho": rho}) for rho in (0.1, 0.2, 0.4)]
    table += [row(value=0.7, experiment="gsam", **{"optimizer.rho_max": rho}) for rho in (0.1, 0.3)]
    table += [row(state="pruned", value=0.5, experiment="gsam", **{"optimizer.rho_max": 0.5})]
    figure = draw(table, higher=True)
    (panel,) = figure.axes
    assert panel.get_xlabel() == "ρ, ρ_max" and panel.get_ylabel() == "top-1 (%)"
    assert [list(line.get_xdata()) for line in (each[0] for each in panel.containers)] == [[0.1, 0.2, 0.4], [0.1, 0.3]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sam", "gsam"]
    assert (
        figure.get_suptitle() == "test: top-1 (%) on val, 5 of 6 configurations, mean ± standard deviation of 2 seeds"
    )


def test_words_on_an_axis_are_places_without_a_line():
    (panel,) = draw([row(optimizer="sam"), row(optimizer="gsam", value=0.6)], higher=True).axes
    assert [text.get_text() for text in panel.get_xticklabels()] == ["sam", "gsam"]
    assert panel.containers[0][0].get_linestyle() == "None"


def test_a_grid_of_two_axes_is_a_surface_with_its_numbers():
    grid = [row(value=r + a, **{"optimizer.rho": r, "optimizer.alpha": a}) for r in (0.1, 0.2) for a in (0.0, 0.1, 0.5)]
    grid[1] |= {"state": "failed", "value": None}
    panel, bar = draw(grid, higher=True).axes
    assert panel.get_xlabel() == "ρ" and panel.get_ylabel() == "α" and bar.get_ylabel() == "top-1 (%)"
    assert sorted(text.get_text() for text in panel.texts) == ["10.0", "20.0", "30.0", "60.0", "70.0", "failed"]
    (star,) = panel.lines  # the best
    assert (star.get_xdata()[0], round(star.get_ydata()[0])) == (1, 2)


def test_scattered_points_of_two_axes_are_contours_and_more_axes_a_panel_each():
    places = [(0.01, 0.1), (0.02, 0.5), (0.3, 0.2), (0.1, 0.4), (0.05, 0.05)]
    table = [row(value=r + a, **{"optimizer.rho": r, "optimizer.alpha": a}) for r, a in places]
    panel, _ = draw(table, higher=True).axes
    assert panel.get_xscale() == "log" and panel.get_legend().get_texts()[-1].get_text() == "best"
    three = [{**each, "place": each["place"] | {"base.lr": 0.1 * i}} for i, each in enumerate(table)]
    assert [panel.get_xlabel() for panel in draw(three, higher=True).axes] == ["ρ", "α", "learning rate"]


@pytest.mark.parametrize("odd", [None, "linear", True])
def test_an_axis_of_numbers_and_words_is_places(odd):
    """Also where the row with the word has no value yet, and where a search's trial has no place yet."""
    table = [row(**{"optimizer.rho": r, "optimizer.alpha": a}) for r in (0.1, 0.2) for a in (0.1, odd)]
    for each in table[1::2]:
        each |= {"state": "open", "value": None}
    assert [panel.get_xlabel() for panel in draw(table, higher=True).axes] == ["ρ", "α"]
    for each in table[1::2]:
        each |= {"state": "complete", "value": 0.4}
    _, alpha = draw(table, higher=True).axes
    assert [text.get_text() for text in alpha.get_xticklabels()] == ["0.1", str(odd)]
    numbers = [row(**{"optimizer.rho": r, "optimizer.alpha": a}) for r, a in ((0.1, 0.2), (0.2, 0.1), (0.3, 0.3))]
    draw([*numbers, row(state="running")], higher=True)


def test_a_picture_that_cannot_be_drawn_is_a_line(ledger, tmp_path):
    said = []
    (ledger.plan.folder / "sweep.png").mkdir(parents=True)
    picture(ledger.plan, rows(ledger.plan, ledger.trials()), said.append)
    assert len(said) == 1 and said[0].startswith(f"{ledger.plan.folder}/sweep.png could not be drawn: ")

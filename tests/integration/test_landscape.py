"""Slices of a real run's loss, and Figure 2 from its training step: numbers, pictures, breaking off, wrong inputs."""

import json
import math
import shutil

import pytest
import torch
from hydra import compose, initialize_config_dir

from gsam.analysis.landscape import random_direction
from gsam.analysis.objective import Objective
from gsam.analysis.settings import load_analysis
from gsam.analysis.task import run
from gsam.report.figures import fig2 as figure
from gsam.report.figures import landscape as slices
from gsam.runtime import Runtime
from gsam.train import checkpoint
from tests.runs import CONFIGS, train

SHORT = ["data.backend=folder", "data.limit_train=200", "data.limit_eval=50", "train.batch_size=50", "train.epochs=8st"]
GSAM = [
    "optimizer=gsam",
    "optimizer.rho_max=0.3",
    "optimizer.rho_min=0.1",
    "optimizer.alpha=0.4",
    "schedule.warmup_steps=2",
]


@pytest.fixture(scope="module")
def runs(fashion_root, tmp_path_factory):
    """Run folders: a GSAM run, a vanilla one of the same network, and one of another network."""
    folder = tmp_path_factory.mktemp("runs")
    kinds = {
        "one": GSAM,
        "two": ["optimizer=vanilla", "train.seed=1"],
        "wide": ["optimizer=vanilla", "model.name=resnet10t"],
    }
    for name, settings in kinds.items():
        train(*SHORT, *settings, f"paths.fashion_mnist={fashion_root}", f"run.dir={folder / name}")
    return folder


def analyze(out, *overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = load_analysis(compose("analyze", [*overrides, f"out={out}", "n=40"]))
    with Runtime.start() as runtime:
        return run(config, runtime)


def test_a_plane_has_the_checkpoint_in_its_middle_and_two_pictures(runs, tmp_path):
    gap = f"analysis=[sharpness,landscape] weights={runs / 'one'} landscape.points=3 landscape.reach=0.5".split()
    *sharp, row = analyze(tmp_path, *gap)
    assert row["x"] == row["y"] == [-0.5, 0.0, 0.5] and [len(line) for line in row["losses"]] == [3, 3, 3]
    assert row["losses"][1][1] == pytest.approx(sharp[0]["loss"], rel=1e-5)
    assert len({round(value, 6) for line in row["losses"] for value in line}) == 9
    for name in ("contour", "surface"):
        assert (tmp_path / f"landscape_{name}.png").read_bytes().startswith(b"\x89PNG")
    assert row["batchnorm"] == "eval" and "at the checkpoint" in row["sentence"]


@pytest.mark.slow
def test_two_lines_go_along_the_planes_axes(runs, tmp_path):
    common = f"analysis=landscape weights={runs / 'one'} landscape.points=3".split()
    (plane,), (lines,) = analyze(tmp_path, *common), analyze(tmp_path, *common, "landscape.dims=1")
    assert lines["losses"] == [plane["losses"][1], [line[1] for line in plane["losses"]]]
    assert (tmp_path / "landscape_1d.png").exists()


def test_directions_are_as_long_as_each_filter_and_leave_biases_alone():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(16, 5)
    )
    objective = Objective(net, None, None)
    direction = random_direction(objective, 0)
    for weights, part in zip(objective.parts(objective.weights), objective.parts(direction), strict=True):
        if weights.dim() == 1:
            assert not part.any()
        else:
            assert torch.allclose(part.flatten(1).norm(dim=1), weights.flatten(1).norm(dim=1), rtol=1e-5)
    assert torch.equal(direction, random_direction(objective, 0)) and not torch.equal(
        direction, random_direction(objective, 1)
    )


@pytest.mark.slow
def test_a_broken_off_slice_continues_where_it_was(runs, tmp_path, monkeypatch):
    common = f"analysis=landscape weights={runs / 'one'} landscape.points=3 landscape.seed=5".split()
    measure, done = Objective.loss, []

    def counted(self, weights=None):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(0)
        return measure(self, weights)

    monkeypatch.setattr(Objective, "loss", counted)
    with pytest.raises(KeyboardInterrupt):
        analyze(tmp_path / "broken", *common)
    done[:] = [0] * 5  # from now on it only counts
    (continued,) = analyze(tmp_path / "broken", *common)
    assert len(done) == 5 + 9 - 4
    (whole,) = analyze(tmp_path / "whole", *common)
    assert continued["losses"] == whole["losses"]
    before = len(done)
    assert analyze(tmp_path / "broken", *common) == [continued] and len(done) == before  # not measured again


@pytest.mark.slow
def test_between_two_checkpoints_the_line_starts_at_one_and_ends_at_the_other(runs, tmp_path):
    common = [
        "analysis=[between]",
        f"weights={runs / 'one'}",
        f"between.other={runs / 'two'}",
        "between.points=5",
        "batchnorm=batch",
    ]
    (line,) = analyze(tmp_path, *common)
    ends = {
        name: analyze(
            tmp_path / name, "analysis=landscape", f"weights={runs / name}", "landscape.points=3", "batchnorm=batch"
        )
        for name in ("one", "two")
    }
    for place, name in ((0.0, "one"), (1.0, "two")):
        assert line["losses"][0][line["x"].index(place)] == pytest.approx(ends[name][0]["losses"][1][1], rel=1e-4)
    assert line["distance"] > 0 and (tmp_path / "between_1d.png").exists()
    (plane,) = analyze(tmp_path, *common, "between.dims=2", "between.points=3")
    middle = plane["losses"][1]
    assert middle[plane["x"].index(1.0)] == pytest.approx(line["losses"][0][line["x"].index(1.0)], rel=1e-4)
    assert (tmp_path / "between_surface.png").exists()


def test_another_network_under_the_same_path_is_measured(runs, tmp_path):
    shutil.copytree(runs / "two", tmp_path / "other")
    common = ["analysis=between", f"weights={runs / 'one'}", f"between.other={tmp_path / 'other'}", "between.points=3"]
    (first,) = analyze(tmp_path / "out", *common)
    last = tmp_path / "other" / "checkpoints" / "last.pt"
    state = checkpoint.read(last)
    head = next(name for name, tensor in state["model"].items() if tensor.is_floating_point())
    state["model"][head] *= 1.5
    checkpoint.save(last, state)
    (second,) = analyze(tmp_path / "out", *common)
    assert second["distance"] != first["distance"] and second["losses"] != first["losses"]
    torch.save(state["model"], alone := tmp_path / "alone.pth")  # a file is taken for one of the same network
    (third,) = analyze(tmp_path / "out", *common[:2], f"between.other={alone}", "between.points=3")
    assert third["losses"] == second["losses"]
    state["model"][head] *= math.nan
    checkpoint.save(last, state)
    with pytest.raises(ValueError, match=f"between.other=.*: {head} has .* values that are not finite"):
        analyze(tmp_path / "out", *common)


def test_points_that_are_not_finite_are_counted():
    row = {"losses": [[1.0, math.nan, 3.0], [2.0, 0.5, 2.0], [1.0, 1.0, 1.0]]}
    assert slices.sentence("landscape", row).endswith("0.5 to 3 on the slice, and not finite at 1 of 9 points")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["analysis=between", "between.other={runs}/wide"], "is another network"),
        (["analysis=between", "between.other={runs}/one"], "the same weights"),
        (["analysis=between"], "between.other: missing"),
        (["analysis=landscape", "landscape.points=4"], "landscape.points=4: an odd number"),
        (["analysis=landscape", "landscape.dims=3"], "landscape.dims=3: 1 .lines. or 2"),
    ],
)
def test_what_makes_no_slice_is_refused(runs, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        analyze(tmp_path, f"weights={runs / 'one'}", *(override.format(runs=runs) for override in overrides))


# ---- figure 2 -----------------------------------------------------------------------------------------------------------


def test_figure_2_is_the_next_training_step_of_a_run(runs, tmp_path):
    before = (runs / "one" / "checkpoints" / "last.pt").read_bytes()
    (row,) = analyze(tmp_path, "analysis=fig2", f"weights={runs / 'one'}")
    assert row["at_step"] == 8 and row["optimizer"] == "gsam" and row["m"] == 50 and row["alpha"] == 0.4
    # g = (|g| cos, |g_perp|) in the axes along g_p and across it.
    assert row["cos"] ** 2 + (row["perp_norm"] / row["grad_norm"]) ** 2 == pytest.approx(1, abs=1e-4)
    assert row["before"]["gap"] == pytest.approx(row["before"]["fp"] - row["before"]["f"]) and row["before"]["gap"] > 0
    assert "Step 8 of gsam" in row["sentence"] and (tmp_path / "fig2.png").exists()
    assert (runs / "one" / "checkpoints" / "last.pt").read_bytes() == before
    assert analyze(tmp_path, "analysis=fig2", f"weights={runs / 'one'}") == [row]


@pytest.mark.slow
def test_figure_2_trains_as_many_steps_as_it_says_and_again_where_a_training_was_broken_off(tmp_path):
    (two,), (one,) = (analyze(tmp_path, "analysis=fig2", f"fig2.steps={n}") for n in (2, 1))
    assert two["at_step"] == 2 and one["at_step"] == 1
    for file in (tmp_path / "training_1" / "checkpoints").iterdir():  # as if killed before its first save
        file.unlink()
    (again,) = analyze(tmp_path, "analysis=fig2", "fig2.steps=1", "force=true")
    assert again["at_step"] == 1 and again["before"] == one["before"]


@pytest.mark.slow
def test_a_longer_ascent_moves_only_gsams_update(runs, tmp_path):
    common = ["analysis=fig2", f"weights={runs / 'one'}"]
    (none,), (much,) = analyze(tmp_path, *common, "fig2.alpha=0"), analyze(tmp_path, *common, "fig2.alpha=2")
    assert none["after"]["GSAM"] == none["after"]["SAM"] == much["after"]["SAM"] != much["after"]["GSAM"]
    assert math.isclose(none["perp_norm"], much["perp_norm"]) and figure.draw(much).axes


def test_figure_2_of_a_run_without_a_radius_asks_for_one(runs, tmp_path):
    with pytest.raises(ValueError, match="vanilla has no radius or no alpha here: give fig2.rho"):
        analyze(tmp_path, "analysis=fig2", f"weights={runs / 'two'}")
    (row,) = analyze(tmp_path, "analysis=fig2", f"weights={runs / 'two'}", "fig2.rho=0.1", "fig2.alpha=0.4")
    assert row["optimizer"] == "vanilla" and json.loads((tmp_path / "analysis.jsonl").read_text())["rho"] == 0.1
    with pytest.raises(ValueError, match="step_3.pt does not exist"):
        analyze(tmp_path, "analysis=fig2", f"weights={runs / 'one'}", "checkpoint=step_3.pt")
    with pytest.raises(ValueError, match="fig2 needs a run's folder"):
        analyze(tmp_path, "analysis=fig2", "weights=timm:resnet18")

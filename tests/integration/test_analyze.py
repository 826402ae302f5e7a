"""analyze.py on a short real run: rows, running again, breaking off, wrong inputs; and measuring during training."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from gsam.analysis import during
from gsam.analysis.objective import Objective
from gsam.analysis.settings import load_analysis
from gsam.analysis.task import run
from gsam.config import ConfigError
from gsam.report.load import read_run
from gsam.runtime import Requeue, Runtime
from tests.processes import finish, last_line
from tests.runs import CONFIGS, compose_train, rows, train

ROOT = Path(__file__).parents[2]
SMALL = ["data.backend=folder", "data.limit_train=1000", "data.limit_eval=100", "train.batch_size=50", "train.epochs=20st",
         "optimizer=gsam", "optimizer.group_size=25", "train.log_every=5st"]  # fmt: skip
QUICK = ["hessian.starts=1", "hessian.top=1", "hessian.probes=2", "hessian.tol=0.1"]


@pytest.fixture(scope="module")
def trained(fashion_root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(*SMALL, f"paths.fashion_mnist={fashion_root}", f"run.dir={folder}")
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def configured(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return load_analysis(compose("analyze", list(overrides)))


def analyze(folder, *overrides):
    with Runtime.start() as runtime:
        return run(configured(f"weights={folder}", "n=20", *overrides), runtime)


def test_both_analyses_leave_rows_that_name_everything(folder):
    found = analyze(folder, "analysis=[hessian,sharpness]", *QUICK, "sharpness.rho=[0.05,0.5]")
    hessian, *gaps = read_run(folder).analyses
    assert found == [hessian, *gaps] and [row["analysis"] for row in gaps] == ["sharpness"] * 4
    assert hessian["sigma_max"] == pytest.approx(hessian["top"][0], rel=0.1) and hessian["sigma_max_residual"] <= 0.1
    assert hessian["trace_std"] > 0 and hessian["probes"] == 2 and hessian["hvps"] > 4
    for row in (hessian, *gaps):
        meta = json.loads((folder / "meta.json").read_text())
        assert row["set"] == "fashion_mnist/train" and row["n"] == 20
        assert row["batchnorm"] == "eval" and row["precision"] == "fp32"
        assert (row["config_hash"], row["optimizer"], row["step"]) == (meta["config_hash"], "gsam", 20)
        assert re.fullmatch("[0-9a-f]{16}", row["subset"]) and row["device"].startswith("CPU") and row["git_hash"]
        assert row["loss_function"] == "softmax, label smoothing 0, without weight decay"
    one_step, projected = (gap for gap in gaps if gap["rho"] == 0.5)
    assert one_step["gap"] == pytest.approx(one_step["sharp_loss"] - one_step["loss"])
    assert one_step["sigma_estimate"] == pytest.approx(2 * one_step["gap"] / 0.25)
    assert projected["sharp_loss"] >= one_step["sharp_loss"] and projected["ascent"] == "projected"


def test_running_again_measures_nothing_that_is_known(folder):
    first = analyze(folder, "analysis=hessian", *QUICK)
    lines = (folder / "analysis.jsonl").read_text()
    assert analyze(folder, "analysis=hessian", *QUICK) == first and (folder / "analysis.jsonl").read_text() == lines
    again = analyze(folder, "analysis=hessian", *QUICK, "force=true")
    assert again[0]["top"] == first[0]["top"] and len((folder / "analysis.jsonl").read_text().splitlines()) == 2
    assert read_run(folder).analyses == again
    other = analyze(folder, "analysis=hessian", *QUICK, "n=50")
    assert other[0]["subset"] != first[0]["subset"] and len(read_run(folder).analyses) == 2


def test_batch_statistics_are_another_measurement_and_say_so(folder):
    settings = ["analysis=sharpness", "sharpness.ascent=[one_step]"]
    (running,), (batch,) = analyze(folder, *settings), analyze(folder, *settings, "batchnorm=batch", "batch_size=10")
    assert (batch["batchnorm"], batch["batch_size"]) == ("batch", 10) and running["batch_size"] is None
    assert abs(batch["loss"] - running["loss"]) > 1e-3 and len(read_run(folder).analyses) == 2


def test_m_sharpness(folder):
    settings = ["analysis=sharpness", "sharpness.ascent=[one_step]", "sharpness.m=[null,10,5]", "sharpness.rho=[0.1]"]
    whole, ten, five = analyze(folder, *settings)
    assert [row["m"] for row in (whole, ten, five)] == [None, 10, 5]
    assert whole["loss"] == pytest.approx(five["loss"], rel=1e-6) and "gap_std" not in whole and five["gap_std"] > 0
    assert whole["gap"] < ten["gap"] < five["gap"]  # fewer pictures are easier to move uphill
    with pytest.raises(ValueError, match=r"sharpness.m=30: the 20 pictures must be whole groups; .* or n=30"):
        analyze(folder, "analysis=sharpness", "sharpness.m=[30]")


class Broken(Objective):
    """Stops as Ctrl-C does, in the middle of Lanczos and of the trace."""

    products, limits = 0, (8, 26)

    def hvp(self, vector, weights=None):
        Broken.products += 1
        if Broken.products in self.limits:
            raise KeyboardInterrupt
        return super().hvp(vector, weights)


def test_a_measurement_that_was_broken_off_goes_on(folder, tmp_path, monkeypatch):
    settings = ["analysis=hessian", *QUICK, "hessian.probes=9"]
    (whole,) = analyze(Path(shutil.copytree(folder, tmp_path / "whole")), *settings)
    monkeypatch.setattr("gsam.analysis.task.Objective", Broken)
    for _ in Broken.limits:
        with pytest.raises(KeyboardInterrupt):
            analyze(folder, *settings)
        assert len(list((folder / "analysis").glob("hessian-*.pt"))) == 1 and not (folder / "analysis.jsonl").exists()
    (row,) = analyze(folder, *settings)
    assert [row[key] for key in ("sigma_max", "top", "trace")] == [whole[key] for key in ("sigma_max", "top", "trace")]
    assert row["hvps"] == Broken.products - len(Broken.limits) < whole["hvps"] + Broken.limits[0]  # Lanczos began again
    assert not (folder / "analysis").exists()


def test_weights_file_without_a_run(folder, tmp_path, fashion_root):
    from safetensors.torch import save_file

    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["model"]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors")
    settings = ["network=small_convnet", "analysis=sharpness", "sharpness.ascent=[one_step]", f"out={tmp_path}/out"]
    with pytest.raises(ValueError, match="source: missing"):
        analyze(tmp_path / "w.safetensors", *settings)
    (row,) = analyze(
        tmp_path / "w.safetensors", *settings, "source=fashion_mnist", f"paths.fashion_mnist={fashion_root}"
    )
    assert row["set"] == "fashion_mnist/train" and row["model"] == "small_convnet" and row["gap"] > 0


# ---- wrong inputs ---------------------------------------------------------------------------------------------------


def test_every_mistake_in_one_message():
    with pytest.raises(ConfigError) as caught:
        configured(
            "analysis=[hessian,sharpness]", "precision=fp16", "+hessian.topp=3", "sharpness.rho=[-1]", "n=0", "+bach=1"
        )
    text = str(caught.value)
    for part in ("weights: missing", "precision=fp16: a Hessian is measured in fp32 or float64", "n=0: must be at least 1",
                 "hessian.topp: unknown key; did you mean hessian.top?", "sharpness.rho=-1.0: a radius must be positive",
                 "bach: unknown key"):  # fmt: skip
        assert part in text
    with pytest.raises(ConfigError, match="analysis: missing; give analysis=<name>"):
        configured("weights=x")
    with pytest.raises(ConfigError, match=r"sharpness: not among analysis=\[hessian\]; choose it too"):
        configured("weights=x", "analysis=hessian", "+sharpness.rho=[0.1]")


def test_more_pictures_than_the_run_was_trained_on(folder):
    with pytest.raises(
        ValueError, match=r"n=1001: the train set of fashion_mnist has 1,000 pictures; choose 1 to 1000, or"
    ):
        analyze(folder, "analysis=hessian", "n=1001")


def test_weights_that_are_not_finite_are_named_by_the_command(folder):
    """The real command: exit code 2 and one line."""
    from gsam.train import checkpoint

    file = folder / "checkpoints" / "last.pt"
    state = checkpoint.read(file)
    state["model"]["head.weight"][3, :2] = torch.nan
    checkpoint.Writer(folder / "checkpoints", 1, print).save(["last.pt"], state)
    found = subprocess.run(
        [sys.executable, "scripts/analyze.py", f"weights={folder}@raw", "analysis=hessian"], cwd=ROOT, text=True,
        capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert found.returncode == 2, found.stderr
    assert "error: weights=" in found.stderr and "head.weight has 2 of 1600 values that are not finite" in found.stderr


def test_torchrun_is_refused(folder):
    with pytest.raises(ValueError, match="one process, not in 2: start it with python, not with torchrun"):
        run(configured(f"weights={folder}", "analysis=hessian"), Runtime(torch.device("cpu"), world=2))


# ---- during training ------------------------------------------------------------------------------------------------


MEASURED = ["analysis.every=12st", "analysis.n=10"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory, fashion_root):
    """The settings of a run with dropout; its folder without and with measurements."""
    root = tmp_path_factory.mktemp("pair")
    settings = [*SMALL, f"paths.fashion_mnist={fashion_root}", "++model.kwargs={drop_rate: 0.3}"]
    plain = train(*settings, f"run.dir={root}/plain").folder.path
    return settings, plain, train(*settings, *MEASURED, f"run.dir={root}/measured").folder.path


def state_of(folder):
    state = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return {f"{part}.{k}": v for part in ("model", "base") for k, v in flat(state[part])}


def flat(tree, at=""):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, (dict, list)):
            yield from flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) if torch.is_tensor(v) else v == b[k] for k, v in a.items())


def test_a_run_that_is_measured_is_the_run_that_is_not(pair, tmp_path):
    """Weights, momentum, buffers and telemetry bit for bit; also after it was stopped and went on. Same configuration hash."""
    settings, plain, measured = pair
    assert same(state_of(plain), state_of(measured))
    keys = ("loss", "sharp_loss", "cos", "grad_norm")
    telemetry = [[[row[k] for k in keys] for row in rows(folder, "train")] for folder in (plain, measured)]
    assert (
        telemetry[0] == telemetry[1] and read_run(plain).meta["config_hash"] == read_run(measured).meta["config_hash"]
    )
    steps = [(step, name) for step in (12, 20) for name in ("sharpness", "hessian")]
    found = read_run(measured).analyses
    assert [(row["step"], row["analysis"]) for row in found] == steps
    assert all(row["gap"] > 0 for row in found[::2]) and all(row["sigma_max"] != 0 for row in found[1::2])

    again = [*settings, *MEASURED, f"run.dir={tmp_path}/stopped"]
    train(*again, "train.max_steps=15")
    stopped = train(*again).folder.path
    assert same(state_of(plain), state_of(stopped))
    assert [(row["step"], row["analysis"]) for row in rows(stopped, "analysis") if row["step"] != 15] == steps


def test_what_is_measured_is_what_analyze_measures(pair):
    """The last rows of a run, and analyze.py on its last checkpoint with the same pictures and radius."""
    gap, sigma = read_run(pair[2]).analyses[-2:]
    radius = [f"sharpness.rho=[{gap['rho']}]", "sharpness.ascent=[one_step]"]
    powers = ["hessian.top=0", "hessian.probes=0", "hessian.starts=1"]
    hessian, again = analyze(pair[2], "analysis=[hessian,sharpness]", *radius, *powers, "n=10")
    assert again["subset"] == gap["subset"] and again["gap"] == pytest.approx(gap["gap"], rel=1e-4)
    assert hessian["sigma_max"] == pytest.approx(sigma["sigma_max"], rel=2e-3)


def test_a_budget_too_small_is_said_and_the_training_goes_on(tmp_path, fashion_root, capsys):
    settings = [
        *SMALL,
        *MEASURED,
        "analysis.seconds=1e-9",
        f"paths.fashion_mnist={fashion_root}",
        f"run.dir={tmp_path}/run",
    ]
    trainer = train(*settings)
    assert trainer.step == 20 and not read_run(tmp_path / "run").analyses
    said = capsys.readouterr().out
    assert "step 12: analysis.seconds=1e-09 did not suffice for the surrogate gap and sigma_max" in said


def test_a_signal_ends_a_measurement_and_the_run_saves(tmp_path, fashion_root, monkeypatch, capsys):
    """A scheduler that sends SIGTERM waits seconds, a measurement may take minutes."""
    product, calls = Objective.hvp, []

    def signalled(self, *args):
        calls.append(signal.raise_signal(signal.SIGTERM) if not calls else None)
        return product(self, *args)

    monkeypatch.setattr(Objective, "hvp", signalled)
    with pytest.raises(Requeue, match="SIGTERM at step 13 of 20; saved"):
        train(*SMALL, *MEASURED, f"paths.fashion_mnist={fashion_root}", f"run.dir={tmp_path}/run")
    assert len(calls) == 1 and "step 12: asked to leave before sigma_max" in capsys.readouterr().out
    assert [row["analysis"] for row in rows(tmp_path / "run", "analysis")] == ["sharpness"]


def test_a_vector_that_has_not_converged_is_no_eigenvector(tmp_path, fashion_root, monkeypatch, capsys):
    monkeypatch.setattr(during, "ITERATIONS", 1)
    train(*SMALL, *MEASURED, f"paths.fashion_mnist={fashion_root}", f"run.dir={tmp_path}/run")
    assert {row["analysis"] for row in read_run(tmp_path / "run").analyses} == {"sharpness"}
    assert "no sigma_max: the power iteration has not converged after 1 products" in capsys.readouterr().out


def test_wrong_settings_of_the_section(fashion_root):
    with pytest.raises(ConfigError) as caught:
        compose_train(
            f"paths.fashion_mnist={fashion_root}", "analysis.every=0st", "analysis.seconds=9999", "analysis.n=0"
        )
    assert len([problem for problem in caught.value.problems if problem.startswith("analysis.")]) == 3
    with pytest.raises(ValueError, match="n=1001: the train set of fashion_mnist has 1,000 pictures"):
        train(
            *SMALL,
            "analysis.every=8st",
            "analysis.n=1001",
            f"paths.fashion_mnist={fashion_root}",
            "run.dir=/nowhere/run",
        )


@pytest.mark.slow
def test_two_ranks(tmp_path, fashion_root):
    """Rank 0 measures, the other waits; the same weights as without."""
    settings = [*SMALL, "experiment=quickstart", "optimizer.group_size=25", f"paths.fashion_mnist={fashion_root}"]
    log = tmp_path / "log"
    assert finish([*settings, f"run.dir={tmp_path}/plain"], log, world=2) == 0, last_line(log)
    assert finish([*settings, *MEASURED, f"run.dir={tmp_path}/measured"], log, world=2) == 0, last_line(log)
    assert same(state_of(tmp_path / "plain"), state_of(tmp_path / "measured"))
    assert [row["step"] for row in read_run(tmp_path / "measured").analyses] == [12, 12, 20, 20]

"""`python -m gsam.verify`: passes here, fails for broken code, and its certificate reaches the run folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gsam.optim import ops, wrapper
from gsam.verify import __main__ as verify
from gsam.verify import certificate, proofs

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


def test_the_command_passes_in_time_and_writes_its_certificate(tmp_path):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "gsam.verify"]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr
    for name in proofs.PROOFS:
        assert name in run.stdout
    written = json.loads((tmp_path / "gsam" / "verify.json").read_text())
    assert written["passed"] and [p["name"] for p in written["proofs"]] == list(proofs.PROOFS)
    assert written["versions"]["torch"] == torch.__version__ and written["device"].startswith("CPU")
    assert written["seconds"] < 60 and written["time"] and written["code"] == certificate.code_hash()


def test_its_golden_numbers_are_those_of_the_tests():
    ours = torch.load(proofs.GOLDEN, weights_only=True)
    theirs = np.load(ROOT / "tests" / "golden" / "big_vision_gsam.npz")
    assert set(ours) == set(theirs.files)
    assert all(np.array_equal(ours[k].numpy(), theirs[k]) for k in ours)


def failed(monkeypatch):
    """The proofs in this process that do not hold now."""
    monkeypatch.delitem(proofs.PROOFS, "two ranks")  # other processes would not see what was broken here
    rows = proofs.prove(CPU)
    assert not any("Error: " in row["detail"] for row in rows), "a proof could not run, which shows nothing"
    return {row["name"] for row in rows if not row["passed"]}


def test_everything_holds_unbroken(monkeypatch):
    assert failed(monkeypatch) == set()


def broken_ascend(used, other, alpha):
    """The wrong sign of the ascent step."""
    return right_ascend(used, other, -alpha)


def lossy(params, direction, scale, room):
    """Gives the weights back with a rounding error, as subtracting the perturbation does."""
    for p in params:
        p.data.mul_(1 + 1e-6)
    return right_perturbed(params, direction, scale, room)


def thawed(model):
    return torch.enable_grad()


def restless(used, other, alpha):
    """An ascent step at alpha = 0 too."""
    return right_ascend(used, other, alpha + 1e-3)


right_ascend, right_perturbed = ops.ascend, ops.perturbed
BROKEN = {
    "sign of the ascent": (ops, "ascend", broken_ascend, {"golden numbers"}),
    "weights not restored": (ops, "perturbed", lossy, {"golden numbers", "rho = 0", "mixed precision"}),
    "statistics of both passes": (wrapper, "second_pass", thawed, {"BatchNorm", "rho = 0"}),
    "random numbers not replayed": (wrapper, "_random_states", lambda _: {}, {"dropout", "rho = 0"}),
    "ascent at alpha = 0": (ops, "ascend", restless, {"golden numbers", "alpha = 0"}),
    "statistics of a skipped step kept": (wrapper.BatchStats, "undo", lambda *_, **__: None, {"overflow"}),
    "cached casts": (torch, "clear_autocast_cache", lambda: None, {"mixed precision"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_code_fails_the_proofs_about_it(name, monkeypatch):
    module, attribute, replacement, expected = BROKEN[name]
    monkeypatch.setattr(module, attribute, replacement)
    assert expected <= failed(monkeypatch)


def test_ranks_that_are_added_up_and_not_averaged_fail_the_proof_about_ranks(tmp_path):
    """Of a copy of the package, since other processes do not see what is broken in this one."""
    shutil.copytree(ROOT / "gsam", tmp_path / "gsam", ignore=shutil.ignore_patterns("__pycache__"))
    engine = tmp_path / "gsam" / "optim" / "engine.py"
    right = engine.read_text()
    assert right.count("flat.div_(world)") == 1
    engine.write_text(right.replace("flat.div_(world)", "flat.div_(1)"))
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "gsam.verify", "--out", "verify.json"]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=150)
    assert run.returncode == 1, run.stdout + run.stderr
    written = json.loads((tmp_path / "verify.json").read_text())
    assert [proof["name"] for proof in written["proofs"] if not proof["passed"]] == ["two ranks"]


def test_a_failed_proof_is_shown_written_and_the_exit_code(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ops, "ascend", broken_ascend)
    monkeypatch.delitem(proofs.PROOFS, "two ranks")
    assert verify.main(["--device", "cpu", "--out", str(tmp_path / "verify.json")]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out and "relative deviation" in out
    written = json.loads((tmp_path / "verify.json").read_text())
    assert not written["passed"] and not written["proofs"][0]["passed"] and written["proofs"][1]["passed"]


def test_the_table_needs_no_rich(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    verify.show([{"name": "rho = 0", "passed": True, "detail": "equal", "seconds": 0.1}])
    assert capsys.readouterr().out.split() == ["passed", "rho", "=", "0", "0.1", "s", "equal"]


def test_a_certificate_is_only_for_its_code_torch_and_device(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    meta = certificate.environment(CPU)
    assert certificate.certificate_for(meta) is None
    certificate.write(certificate.default_path(), [{"passed": True}], CPU, 1.0)
    assert json.loads(certificate.certificate_for(meta))["passed"]
    assert certificate.certificate_for({**meta, "device": "NVIDIA H100"}) is None
    assert certificate.certificate_for({**meta, "versions": {"torch": "1.0"}}) is None
    certificate.write(certificate.default_path(), [{"passed": False}], CPU, 1.0)
    assert certificate.certificate_for(meta) is None
    certificate.default_path().write_text("{")
    assert certificate.certificate_for(meta) is None
    assert len(certificate.code_hash()) == 12


def test_training_copies_the_certificate(monkeypatch, tmp_path):
    from gsam.train.run_folder import RunFolder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    meta = {"config_hash": "0", **certificate.environment(CPU)}
    for there in (False, True):
        if there:
            certificate.write(certificate.default_path(), [{"passed": True}], CPU, 1.0)
        folder = RunFolder(tmp_path / f"run{there}", {}, meta, writer=True)
        folder.open()
        folder.close()
        assert (folder.path / "verify.json").exists() == there

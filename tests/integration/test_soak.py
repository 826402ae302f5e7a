"""scripts/soak.py for less than a minute; and that it would notice."""

import json
import subprocess
import sys

import pytest

from tests.processes import ROOT


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")  # where Python finds the neighbours of a script
    import soak

    return soak


def samples(memory, lives=3):
    """Of lives of 100 s each; memory: MiB of a life at an age in seconds."""
    made = []
    for life in range(lives):
        for age in range(0, 100, 2):
            values = {"memory_mb": memory(life, age), "handles": 6}
            made.append({"life": life, "time": 110.0 * life + age, "age": float(age), **values})
    return made


def test_the_fit_sees_growth_within_lives_and_nothing_else(soak):
    levels = [1000, 1200, 1100]
    still = samples(lambda life, age: levels[life] + (300 if age < 10 else 0))
    slope, seconds = soak.growth(still, "memory_mb", settle=10)
    assert slope == pytest.approx(0, abs=1e-9) and seconds == 3 * 88
    leak = samples(lambda life, age: levels[life] + 0.5 * age)
    slope, seconds = soak.growth(leak, "memory_mb", settle=10)
    assert slope * seconds == pytest.approx(0.5 * 3 * 88)
    assert soak.growth(leak, "handles", settle=10)[0] == 0
    with pytest.raises(ValueError, match="no life has a plateau"):
        soak.growth(still, "memory_mb", settle=99)


def test_gaps_and_doubles_in_the_records_are_seen(soak, tmp_path):
    def write(*steps):
        rows = [{"kind": "train", "step": step} for step in steps]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return soak.records_problem(tmp_path, 50)

    assert write(50, 100, 150) is None
    assert "a gap or a double" in write(50, 150) and "a gap or a double" in write(50, 100, 100)


@pytest.mark.slow
def test_forty_seconds_with_a_kill(fashion_root, tmp_path):
    words = [
        "--hours=0.01", "--kills=1", "--settle=1", f"--out={tmp_path}/out", "experiment=quickstart", "optimizer=sam",
        "data.limit_train=400", "data.limit_eval=100", "train.batch_size=40", "train.log_every=10st", "train.save_every=10st",
        "train.eval_every=10st", f"paths.fashion_mnist={fashion_root}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "scripts/soak.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "soak.json").read_text())
    assert found["problems"] == [] and len(found["ends"]) >= 1 and found["steps"] >= 20
    assert found["growth"]["memory_mb"]["median"] > 100 and found["growth"]["handles"]["median"] > 2
    assert (tmp_path / "out" / "soak.png").stat().st_size > 10_000
    again = subprocess.run([sys.executable, "scripts/soak.py", f"--out={tmp_path}/out"], cwd=ROOT, capture_output=True)
    assert again.returncode == 2 and b"is not empty" in again.stderr

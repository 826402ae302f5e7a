"""scripts/quickstart.sh, line by line as it stands, on a few hundred images and in a folder of its own."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = "data.limit_train=500 data.limit_eval=100 train.batch_size=50 train.epochs=1 schedule.warmup_steps=2"


@pytest.mark.slow
def test_the_main_job_at_reduced_size(tmp_path, fashion_root):
    runs = tmp_path / "runs"
    script = (ROOT / "scripts" / "quickstart.sh").read_text()
    for old, new in (
        ("bash scripts/setup.sh\n", ""),
        ("runs/quickstart/", f"{runs}/quickstart/"),
        ("scripts/report.py quickstart ", f"scripts/report.py quickstart {runs} "),
        ('"${BASH_SOURCE[0]}")/..', f'"{ROOT}/scripts/quickstart.sh")/..'),
        (
            "evalset=[fashion_mnist,fashion_mnist_c]",
            'evalset=[fashion_mnist,fashion_mnist_c]" "evalsets.fashion_mnist.limit=100',
        ),
    ):
        assert old in script, old
        script = script.replace(old, new)
    (tmp_path / "quickstart.sh").write_text(script)
    environment = os.environ | {"GSAM_DATA": str(fashion_root.parent), "DOCS": str(tmp_path / "docs" / "quickstart.md")}
    (fashion_root.parent / "fashion_mnist").exists() or os.symlink(fashion_root, fashion_root.parent / "fashion_mnist")

    def run():
        words = ["bash", str(tmp_path / "quickstart.sh"), f"run.root={runs}", *SMALL.split()]
        result = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout

    out = run()
    assert "ETA" in out and "gaussian_noise" in out
    folders = sorted(path.parent for path in runs.glob("quickstart/*/DONE"))
    methods = {json.loads((folder / "meta.json").read_text())["optimizer"] for folder in folders}
    assert methods == {"vanilla", "sam", "gsam"}
    for folder in folders:
        rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        assert [(r["evalset"], r["corruption"], r["n"]) for r in rows] == [
            ("fashion_mnist", None, 100),
            *[("fashion_mnist_c", c, 2000) for c in ("gaussian_noise", "defocus_blur", "contrast", "jpeg_compression")],
        ]
    report = runs / "quickstart" / "report"
    for name in ("report.md", "report.jsonl", "report.csv", "curves.png"):
        assert (report / name).stat().st_size > 100, name
    assert "SAM" in (tmp_path / "docs" / "quickstart.md").read_text()

    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*") if path.is_file()}
    assert run().count("finished; nothing to do") == 3
    assert before == {path: path.stat().st_mtime_ns for path in before}

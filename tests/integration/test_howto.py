"""docs/howto_add.md works as written: its files are put into a copy of the checkout and its commands are run there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto_add.md").read_text()
SMALL = "data.limit_train=200 data.limit_eval=50 train.batch_size=50 train.epochs=2st train.precision=fp32"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, fashion_root):
    """A copy of the source with every file of the page in its place and every table line in its table."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("gsam", "configs", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "evaluate.py", "pyproject.toml"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "data").mkdir()
    os.symlink(fashion_root, copy / "data" / "fashion_mnist")
    named_block = r"`((?:gsam|configs)/[\w/.]+\.(?:py|yaml))`[^\n]*:[^\n]*\n\n```\w+\n(.*?)```"
    for path, text in re.findall(named_block, PAGE, re.S):
        if path.endswith("__init__.py"):  # a table line, see below
            continue
        assert not (copy / path).exists(), f"{path} is in the project already"
        (copy / path).write_text(text)
    for table, path, line in re.findall(r"One line in `(\w+)` of `([\w/.]+)`:\n\n```python\n(.*?)\n```", PAGE, re.S):
        text = (copy / path).read_text()
        assert re.search(rf"^{table}\b.*= {{$", text, re.M), f"{table} is not in {path}"
        text = re.sub(rf"^({table}\b.*= {{)$", lambda m, line=line: f"{m[1]}\n{line}", text, count=1, flags=re.M)
        (copy / path).write_text(text)
    init = copy / "gsam" / "optim" / "__init__.py"
    init.write_text(
        init.read_text().replace("# One line per method", "from gsam.optim.half_sam import HalfSAMEstimator\n# One", 1)
    )
    return copy


def run(checkout, command):
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    words = [sys.executable, *command.split()]
    result = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def commands(words):
    return [c for c in re.findall(r"`python ((?:train|evaluate)\.py [^`]+)`", PAGE) if words in c]


def test_an_optimizer(checkout):
    (command,) = commands("optimizer=half_sam")
    assert "half_sam" in run(checkout, f"{command} {SMALL} data.backend=folder")
    run(checkout, "-m pytest -q -p no:cacheprovider tests/unit/optim/test_estimators.py -k half_sam")
    run(checkout, "-m pytest -q -p no:cacheprovider tests/unit/test_config.py -k group_files_list")


def test_a_model(checkout):
    assert "convnext_tiny" in run(checkout, "train.py experiment=quickstart model=convnext_tiny --cfg job")


def test_a_data_set_and_training_on_it(checkout):
    (command,) = commands("data=stripes")
    assert "20/20" in run(checkout, command + " train.log_every=10st")


def test_an_eval_set(checkout):
    run(checkout, f"train.py experiment=quickstart optimizer=vanilla {SMALL} data.backend=folder run.dir=trained")
    (command,) = commands("evalset=fashion_mnist_noise")
    assert run(checkout, command.replace("<run", "trained").replace(" folder>", "")).count("gaussian_noise") >= 3


def test_a_figure(checkout):
    code = (
        "from gsam.report.load import read_runs; from gsam.report.figures.gap_over_time import draw; "
        f"draw(read_runs({str(ROOT / 'tests' / 'golden' / 'quickstart')!r})).savefig('gap.png')"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, check=True
    )
    assert (checkout / "gap.png").stat().st_size > 5000

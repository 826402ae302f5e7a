"""What the README promises, run."""

import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_snippet_trains_a_network():
    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.S)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
    x, y = torch.randn(16, 4), torch.arange(16) % 2
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def closure():
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        return loss

    names = {"torch": torch, "net": net, "closure": closure, "scaler": scaler}
    before = net[0].weight.detach().clone()
    exec(snippet, names)
    assert names["loss"].isfinite() and not torch.equal(before, net[0].weight)


def test_files_and_choices_it_names_exist():
    for link in re.findall(r"\]\(((?:docs|NOTICE)[^)#]*)\)", README):
        assert (ROOT / link).exists(), link
    for group, choices in re.findall(r"^\| `(\w+)` \| ((?:`[\w/<>]+` ?)+)", README, re.M):
        for choice in re.findall(r"`(\w+)`", choices):
            assert (ROOT / "configs" / group / f"{choice}.yaml").exists(), f"{group}={choice}"
    for name in re.findall(r"\bsweep=(\w+)", README):
        assert (ROOT / "configs" / "sweep" / f"{name}.yaml").exists(), name
    for name in re.findall(r"debug=(\w+)", README):
        assert (ROOT / "configs" / "debug" / f"{name}.yaml").exists(), name


def test_every_script_it_names_answers_help():
    for script in sorted(set(re.findall(r"python (scripts/[\w/]+\.py)", README))):
        result = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert result.returncode == 0 and Path(script).name in result.stdout, result.stderr


def test_every_shell_script_answers_help_and_does_nothing_else():
    """With sh too, which ends at bash's own words."""
    for script in sorted((ROOT / "scripts").glob("*.sh")):
        for words in (["bash", script, "--help"], ["bash", script, "-h"], ["sh", script, "--help"]):
            result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=10)
            assert result.returncode == 0 and not result.stderr, script
            assert result.stdout.splitlines() == header(script), script


def header(script: Path) -> list[str]:
    lines = script.read_text().splitlines()[1:]
    return [re.sub("^# ?", "", line) for line in takewhile(lambda line: line.startswith("#"), lines)]


def test_every_module_it_names_answers_help():
    for module in sorted(set(re.findall(r"python -m (gsam[\w.]*)", README))):
        result = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert result.returncode == 0 and "usage" in result.stdout, result.stderr


def test_every_eval_set_it_names_exists():
    for names in re.findall(r"evalset=\[?([\w,]+)", README):
        for name in names.split(","):
            assert (ROOT / "configs" / "evalset" / f"{name}.yaml").exists(), name

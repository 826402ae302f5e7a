"""docs/evaluation.md: its tables are the configuration's, its commands exist, and the way from an archive to the card works."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml

from gsam.eval.doctor import main as doctor_main
from gsam.eval.evalsets import EvalSet
from gsam.eval.layouts import class_list
from gsam.eval.prepare import SETS, stated
from scripts.prepare_eval import main as prepare_main
from tests.unit.sets.official import imagenet_r, write_tar

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()
ROWS = re.findall(r"^\| `(imagenet\w*)` \| ([^|]+) \| (\d+) \| ([^|]+) \|$", PAGE, re.M)


def pictures(evalset: EvalSet) -> str:
    """As the table has it."""
    scored = evalset.expect_n
    if evalset.labels == "real":
        scored = 46_837
    if evalset.layout == "split" and evalset.classes:
        scored = 50 * len(class_list(evalset.classes))
    return f"{len(evalset.corruptions)} × 5 × {scored:,}" if evalset.corruptions else f"{scored:,}"


@pytest.mark.parametrize(
    ("name", "count", "logits", "label"), ROWS, ids=lambda value: value if " " not in value else ""
)
def test_the_table_of_sets_is_what_the_files_say(name, count, logits, label):
    evalset = stated(name, Path())
    assert count == pictures(evalset)
    assert int(logits) == (len(class_list(evalset.classes)) if evalset.argmax == "classes" else 1000)
    assert ("ReaL" in label) == (evalset.labels == "real") and (
        "number of the folder" in label or "the same" in label
    ) == (evalset.layout == "index")


def test_the_tables_leave_nothing_out():
    files = {path.stem for path in (ROOT / "configs" / "evalset").glob("imagenet*.yaml")}
    assert {name for name, *_ in ROWS} == files
    whole = yaml.safe_load((ROOT / "configs" / "evalset" / "all.yaml").read_text())["defaults"]
    assert set(whole) == files - {"imagenet_c_generated"}
    for key, targets in SETS.items():
        (row,) = re.findall(rf"^\| `{key}` \| .*$", PAGE, re.M)
        assert targets[0].key in row and targets[0].folder in row


def test_what_it_names_exists():
    for script in set(re.findall(r"scripts/\w+\.py", PAGE)):
        assert (ROOT / script).exists(), script
    for link in re.findall(r"\]\((\w+\.md)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
    for sets in re.findall(r"evalset=(?:\[([\w,]+)\]|(\w+))", PAGE):
        for name in ",".join(sets).strip(",").split(","):
            assert (ROOT / "configs" / "evalset" / f"{name}.yaml").exists(), name


def test_its_numbers():
    """988 labels of V2 wrong in text order; neighbouring lists of ReaL share a label in 0.15 %."""
    import importlib.resources

    assert sum(int(name) != place for place, name in enumerate(sorted(map(str, range(1000))))) == 988
    text = importlib.resources.files("timm.data").joinpath("_info/imagenet_real_labels.json").read_text()
    lists = json.loads(text)
    pairs = [bool(set(a) & set(b)) for a, b in zip(lists, lists[1:], strict=False) if a and b]
    assert f"{sum(pairs) / len(pairs):.2%}".replace("%", " %") == "0.15 %" and f"{lists.count([]):,}" == "3,163"
    assert all(number in PAGE for number in ("988", "0.15 %", "3,163"))


def test_from_the_archive_to_the_card(tmp_path, capsys, monkeypatch):
    """The printed commands, as they are printed."""
    network = "test_byobnet.r160_in1k"
    torch.save(timm.create_model(network).state_dict(), tmp_path / "net.pth")
    archive, local = write_tar(tmp_path / "imagenet-r.tar", imagenet_r()), tmp_path / "paths.yaml"
    words = ["r", "--from", archive, "--to", tmp_path, "--partial", "--local", local]
    monkeypatch.setattr(sys, "argv", ["prepare_eval.py", *map(str, words)])
    assert prepare_main() == 0
    check, evaluate = re.findall(r"python (.*)", capsys.readouterr().out)
    module, root = shlex.split(check)[1:]
    assert module == "gsam.eval.doctor" and doctor_main([root]) == 1  # partial
    assert "instead of 30,000" in capsys.readouterr().out
    words = shlex.split(evaluate.replace("<run folder or timm:name>", f"{tmp_path}/net.pth"))
    words = [sys.executable, *words, f"network={network}", f"out={tmp_path}/out", "workers=0"]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {row["evalset"]: row["n"] for row in rows} == {"imagenet_r": 200, "imagenet_r_200": 200}
    assert "ImageNet-R, 200-way" in (tmp_path / "out" / "card" / "card.md").read_text()

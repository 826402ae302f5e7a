"""Where data sets lie: configs/paths/default.yaml, then the user's configs/local/paths.yaml, then the command line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from gsam.config import ConfigError, load_evaluation

ROOT = Path(__file__).parents[2]
FOLDERS = {
    "imagenet": "imagenet",
    "imagefolder": "imagefolder",
    "fashion_mnist": "fashion_mnist",
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "flowers102": "flowers102",
    "pets": "pets",
    "imagenet_v2": "imagenetv2-matched-frequency-format-val",
    "imagenet_v2_threshold": "imagenetv2-threshold0.7-format-val",
    "imagenet_v2_top": "imagenetv2-top-images-format-val",
    "imagenet_r": "imagenet-r",
    "imagenet_a": "imagenet-a",
    "imagenet_sketch": "sketch",
    "imagenet_c": "imagenet-c",
}


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A copy of configs/ without what this checkout's user has put into configs/local/."""
    monkeypatch.delenv("GSAM_PATHS", raising=False)
    return shutil.copytree(ROOT / "configs", tmp_path / "configs", ignore=shutil.ignore_patterns("local"))


def write_local(configs, file="paths", **roots):
    (configs / "local").mkdir(exist_ok=True)
    (configs / "local" / f"{file}.yaml").write_text(yaml.safe_dump(roots))


def roots_of(configs, *overrides, script="evaluate"):
    with initialize_config_dir(str(configs), version_base="1.3"):
        return dict(compose(script, list(overrides)).paths)


def test_without_a_file_of_ones_own_everything_lies_below_gsam_data(configs, monkeypatch):
    monkeypatch.setenv("GSAM_DATA", "/data")
    assert roots_of(configs) == {"data": "/data", **{key: f"/data/{folder}" for key, folder in FOLDERS.items()}}
    monkeypatch.delenv("GSAM_DATA")
    assert roots_of(configs)["imagenet_r"] == "data/imagenet-r"


@pytest.mark.parametrize("script", ["train", "evaluate"])
def test_the_users_file_wins_over_the_defaults_and_the_command_over_both(configs, script):
    write_local(configs, data="/mine", imagenet="/fast/imagenet")
    roots = roots_of(configs, "paths.imagenet_a=/a", script=script)
    assert (roots["imagenet"], roots["imagenet_a"], roots["imagenet_r"]) == ("/fast/imagenet", "/a", "/mine/imagenet-r")


def test_the_environment_chooses_between_files(configs, monkeypatch):
    write_local(configs, data="/here")
    write_local(configs, file="cluster", data="/scratch")
    assert roots_of(configs)["data"] == "/here"
    monkeypatch.setenv("GSAM_PATHS", "cluster")
    assert roots_of(configs)["data"] == "/scratch"


def test_a_typo_in_the_users_file_is_named(configs):
    write_local(configs, imagenet_sketsh="/x")
    with initialize_config_dir(str(configs), version_base="1.3"), pytest.raises(ConfigError) as caught:
        load_evaluation(compose("evaluate", ["weights=x", "evalset=[imagefolder]"]))
    assert caught.value.problems == ["paths.imagenet_sketsh: unknown key; did you mean paths.imagenet_sketch?"]


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_the_entry_points_show_it(configs, script):
    write_local(configs, imagenet="/fast/imagenet")
    words = [sys.executable, script, "--config-path", str(configs), "--cfg", "job"]
    env = {**os.environ, "GSAM_DATA": "/data"}
    text = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=100, check=True).stdout
    paths = yaml.safe_load(text)["paths"]
    assert paths["imagenet"] == "/fast/imagenet" and set(paths) == {"data", *FOLDERS}


def test_git_ignores_the_users_file():
    words = ["git", "check-ignore", "-q", "configs/local/paths.yaml"]
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    assert subprocess.run(words, cwd=ROOT).returncode == 0

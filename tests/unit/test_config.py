"""Typed loading: every mistake is named, all at once, before any work starts."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from gsam.config import Config, ConfigError, as_dict, load, run_hash
from gsam.fill import defaults
from gsam.optim import BASES, ESTIMATORS
from gsam.optim.base import OtherConfig
from gsam.train.settings import Duration, EmaConfig, RunConfig, TrainConfig, WandbConfig

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


def compose_train(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", ["experiment=quickstart", "run.experiment=quickstart", *overrides])


@pytest.fixture
def fashion(fashion_root):
    return f"paths.fashion_mnist={fashion_root}"


def problems(*overrides, world=1):
    with pytest.raises(ConfigError) as caught:
        load(compose_train(*overrides), world=world)
    return caught.value.problems


def test_a_good_configuration_gives_plain_dataclasses(fashion):
    config = load(compose_train("optimizer=gsam", "optimizer.rho_max=0.3", fashion))
    assert config.optimizer == ESTIMATORS["gsam"](rho_max=0.3, rho_min=0.02, alpha=0.01)
    assert config.train.batch_size == 250 and config.base.lr == 0.1


def test_every_problem_is_named_at_once(fashion):
    found = problems(
        "optimizer=sam", "++optimizer.alpha=0.1", "++train.epoch=3", "train.accumulate=many", "base.name=sdg", fashion
    )
    text = "\n".join(found)
    assert "optimizer.alpha: unknown key; known:" in text
    assert "train.epoch: unknown key; did you mean train.epochs?" in text
    assert "train.accumulate=many" in text and "Integer" in text
    assert "base.name=sdg: unknown; did you mean sgd?" in text
    assert len(found) == 4


@pytest.mark.parametrize(
    ("overrides", "world", "words"),
    [
        (
            ["train.batch_size=1000"],
            3,
            "train.batch_size=1000 is not divisible by 3 ranks x train.accumulate=1; nearest: 999 or 1002",
        ),
        (["train.batch_size=100", "train.accumulate=8"], 1, "nearest: 96 or 104"),
        (
            ["optimizer=sam", "optimizer.group_size=64"],
            1,
            "optimizer.group_size=64 does not divide the 250 images of one rank",
        ),
        (["optimizer=sam", "optimizer.group_size=125", "train.accumulate=2"], 1, "equal micro-batches"),
        (["optimizer=gsam", "optimizer.rho_min=0.5"], 1, "optimizer.rho_min=0.5 is larger than optimizer.rho_max=0.04"),
        (["schedule.lr_min=1"], 1, "schedule.lr_min=1.0: must lie between 0 and base.lr=0.1"),
        (["train.eval_every=3 weeks"], 1, "write a duration as 300ep"),
        (["train.epochs=1.5st"], 1, "whole number of steps"),
        (["optimizer.scope=glob"], 1, "expected one of [group, global]"),
        (["train.label_smoothing=0.6", "train.loss=sigmoid"], 1, "must be in [0, 0.5)"),
        (["ema.decay=1"], 1, "ema.decay=1.0"),
        (["optimizer=entropy_sgd", "train.precision=fp16"], 1, "needs true gradient magnitudes"),
        (["base=other", "base.name=Lionn"], 1, "base.name=Lionn"),
        (["base.momentum=1"], 1, "base.momentum=1.0"),
        (["model.name=resnet5"], 1, "resnet5"),
        (["data=imagefolder", "paths.imagefolder=/no/such/folder"], 1, "/no/such/folder"),
    ],
)
def test_impossible_combinations(overrides, world, words, fashion):
    (found,) = problems(fashion, *overrides, world=world)
    assert words in found


def test_train_yaml_states_every_key_with_the_dataclass_default():
    """The file is where users look for keys; it must not drift from the schema."""
    plain = yaml.safe_load((CONFIGS / "train.yaml").read_text())
    for section, schema in {"train": TrainConfig, "ema": EmaConfig, "wandb": WandbConfig}.items():
        expected = {k: as_dict(v) for k, v in defaults(schema).items()}
        stated = {k: str(v) if isinstance(expected[k], str) else v for k, v in plain[section].items()}
        assert stated == expected
    assert set(plain["run"]) == set(defaults(RunConfig))


@pytest.mark.parametrize("group, table", [("optimizer", ESTIMATORS), ("base", BASES)])
def test_group_files_list_every_key_of_their_dataclass(group, table):
    for path in sorted((CONFIGS / group).glob("*.yaml")):
        stated = yaml.safe_load(path.read_text())
        assert set(stated) == set(defaults(table.get(stated["name"], OtherConfig))), path.name
    assert {p.stem for p in (CONFIGS / group).glob("*.yaml")} >= set(table)


def test_the_run_hash_ignores_what_cannot_change_the_weights(fashion):
    one = load(compose_train(fashion))
    same = load(
        compose_train(fashion, "data.workers=1", "train.log_every=3st", "run.root=elsewhere", "train.max_steps=7")
    )
    other = load(compose_train(fashion, "train.seed=1"))
    assert run_hash(one) == run_hash(same) != run_hash(other)


def test_a_saved_configuration_loads_again(fashion, tmp_path):
    from omegaconf import OmegaConf

    config = load(compose_train(fashion, "optimizer=gsam"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(as_dict(config)))
    again = load(OmegaConf.load(tmp_path / "config.yaml"))
    assert isinstance(again, Config) and as_dict(again) == as_dict(config)


@pytest.mark.parametrize(("text", "steps"), [("3", 30), ("3ep", 30), ("0.25ep", 2), ("7st", 7)])
def test_durations(text, steps):
    assert Duration.parse(text, "ep").steps(num_examples=1000, batch_size=100) == steps


def run(*args):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_a_typo_on_the_command_line_is_answered_by_us_not_by_hydra():
    result = run("train.py", "experiment=quickstart", "train.epoch=3", "+train.sede=4", "optimzer=sam")
    assert result.returncode == 2
    assert "did you mean train.epochs?" in result.stderr and "did you mean train.seed?" in result.stderr
    assert "did you mean optimizer?" in result.stderr and "Traceback" not in result.stderr


def test_an_unknown_choice_lists_the_choices():
    result = run("train.py", "optimizer=sammy")
    assert result.returncode != 0 and "gsam" in result.stderr and "vanilla" in result.stderr


@pytest.mark.parametrize("args", [["--help"], ["--cfg", "job"]])
@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_does_not_wait_for_torch(script, args):
    code = f"""
import sys, runpy
sys.argv = {[script, *args]!r}
try:
    runpy.run_path({script!r}, run_name="__main__")
except SystemExit as e:
    assert not e.code, e.code
heavy = {{"torch", "timm", "numpy", "ffcv"}} & set(sys.modules)
assert not heavy, heavy
"""
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    assert ("seed" in result.stdout) if script == "train.py" else ("weights" in result.stdout)

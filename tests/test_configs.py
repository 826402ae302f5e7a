"""Every file in configs/ is used: it composes, loads, and no setting is dead."""

import importlib
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gsam.analysis import ANALYSES
from gsam.analysis.settings import AnalyzeConfig, load_analysis
from gsam.config import EvalConfig, as_dict, load, load_evaluation
from gsam.data import AugmentConfig, DataConfig
from gsam.eval import EvalSet
from gsam.launch.settings import SlurmConfig
from gsam.models import ModelConfig
from gsam.optim import BASES, ESTIMATORS, ScheduleConfig
from gsam.optim.base import OtherConfig
from gsam.train.settings import AnalysisConfig, EmaConfig, RunConfig, TrainConfig, WandbConfig
from tests.runs import rows, train

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
TRAIN_GROUPS = ("optimizer", "base", "schedule", "model", "augment", "debug")


def files(*groups):
    return [(group, path.stem) for group in groups for path in sorted((CONFIGS / group).glob("*.yaml"))]


@pytest.mark.parametrize(("group", "name"), files(*TRAIN_GROUPS), ids="=".join)
def test_every_choice_composes_and_loads(group, name, fashion_root):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        overrides = ["experiment=quickstart", "run.experiment=quickstart", f"paths.fashion_mnist={fashion_root}"]
        cfg = compose("train", [*overrides, f"{group}={name}", *(["schedule.lr_min=0"] if group == "base" else [])])
    config = load(cfg)
    assert group in ("augment", "debug") or getattr(config, group).name


@pytest.mark.parametrize(("_", "name"), files("data"), ids="=".join)
def test_every_data_set_composes_and_a_missing_root_is_named(_, name, tmp_path):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        root = f"paths.{name}={tmp_path / name}"
        cfg = compose("train", [f"data={name}", root, "data.backend=folder", "run.experiment=x"])
    assert cfg.data.root == str(tmp_path / name)
    if name != "fashion_mnist":  # it would be taken from the system's package
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
            load(cfg)


@pytest.mark.parametrize(("_", "name"), files("evalset"), ids="=".join)
def test_every_eval_set_composes_and_loads(_, name, fashion_root):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("evaluate", ["weights=somewhere", f"evalset=[{name}]", f"paths.fashion_mnist={fashion_root}"])
    sets = load_evaluation(cfg).evalsets
    assert len(sets) > 10 if name == "all" else list(sets) == [name]


@pytest.mark.parametrize(("_", "name"), files("analysis"), ids="=".join)
def test_every_analysis_composes_and_loads_with_its_own_defaults(_, name):
    given = {"other": "elsewhere"} if name == "between" else {}
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        settings = [f"{name}.{key}={value}" for key, value in given.items()]
        config = load_analysis(compose("analyze", ["weights=somewhere", f"analysis=[{name}]", *settings]))
    assert list(config.analyses) == [name]
    assert as_dict(config.analyses[name]) == as_dict(type(config.analyses[name])(**given))


@pytest.mark.parametrize("name", ["limit", "overfit", "profile"])
def test_every_debug_mode_does_what_it_says(name, fashion_root, tmp_path):
    small = ["base.lr=0.03"] if name == "overfit" else ["data.limit_train=1000", "train.batch_size=50"]
    paths = [f"paths.fashion_mnist={fashion_root}", f"run.dir={tmp_path}/run"]
    trainer = train(f"debug={name}", "optimizer=vanilla", *small, *paths)
    folder = trainer.folder.path
    if name == "limit":
        assert trainer.step == 20 < trainer.total_steps
        assert [(row["step"], row["n"]) for row in rows(folder, "eval")] == [(10, 200), (20, 200)]
    if name == "overfit":
        losses = [row["loss"] for row in rows(folder, "train")]
        assert trainer.step == 200 and losses[-1] < 0.05 < losses[0]
    if name == "profile":
        assert (folder / "trace.json").stat().st_size > 10_000


def test_the_launcher_s_file_has_its_defaults():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", ["experiment=quickstart", "launcher=slurm"])
    assert OmegaConf.to_container(cfg.launcher) == as_dict(SlurmConfig())


def test_no_setting_is_dead():
    """Every field of every schema is read somewhere in the package, as an attribute or by its name."""
    source = "\n".join(path.read_text() for path in (ROOT / "gsam").rglob("*.py"))
    schemas = [TrainConfig, EmaConfig, RunConfig, WandbConfig, ScheduleConfig, ModelConfig, DataConfig, AugmentConfig]
    schemas += [importlib.import_module(analysis.module).Settings for analysis in ANALYSES.values()]
    for schema in (
        *schemas,
        AnalysisConfig,
        AnalyzeConfig,
        EvalSet,
        EvalConfig,
        OtherConfig,
        SlurmConfig,
        *ESTIMATORS.values(),
        *BASES.values(),
    ):
        for f in fields(schema):
            used = rf"\.{f.name}\b(?!\s*=[^=])|[\"']{f.name}[\"']"
            assert f.name == "paths" or re.search(used, source), f"{schema.__name__}.{f.name} is read nowhere"

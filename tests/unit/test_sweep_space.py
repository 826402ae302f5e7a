"""What a sweep trains: its files, its command line, the space they make, and what is refused before any work."""

import re
import sys
from pathlib import Path

import pytest

from gsam.config import load
from gsam.fill import ConfigError
from gsam.recipes import compose
from gsam.sweep.run import prepare
from gsam.sweep.settings import available, read
from gsam.sweep.space import Choices, Interval, corners, grid, parse, point_of
from scripts import sweep as script
from tests.sweeps import MINIATURE, plan_of

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs/sweeps.md").read_text()


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("0.1,0.2", Choices((0.1, 0.2))),
        ("1e-3,1e-2", Choices((0.001, 0.01))),
        ("range(1,4)", Choices((1, 2, 3))),
        ("range(0.1,0.35,0.1)", Choices((0.1, 0.2, 0.3))),
        ("choice(0.5)", Choices((0.5,))),
        ("sam,gsam,sam", Choices(("sam", "gsam"))),
        ("true,null", Choices((True, None))),
        ("interval(0.1,1)", Interval(0.1, 1, log=False, whole=False)),
        ("tag(log, interval(1e-3,1))", Interval(0.001, 1, log=True, whole=False)),
        ("int(interval(1,14))", Interval(1, 14, log=False, whole=True)),
        ("0.1", None),
        ("[1,2]", None),
    ],
)
def test_values_are_written_as_for_hydra(text, axis):
    assert parse("a.b", text) == axis


@pytest.mark.parametrize(
    "text", ["interval(1,1)", "tag(log, interval(0,1))", "interval(", "[1],[2]", "glob(*)", "choice(1,true)"]
)
def test_what_is_no_axis_is_named(text):
    with pytest.raises(ValueError, match=re.escape(f"a.b={text}")):
        parse("a.b", text)


EXPECTED = {  # trials, the axes of each experiment, and the paper's values of them
    "fig4": (18, {"fig4": {"optimizer.rho": [0.05, 0.15, 0.2], "optimizer.alpha": [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]}}),
    "fig7_rho": (12, {
        "fig7/sam_rho": {"optimizer.rho": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]},
        "fig7/gsam_rho": {"optimizer.rho_max": [0.1, 0.2, 0.3, 0.4, 0.5]}, "table1/vit_b32_gsam": {},
    }),
    "fig5_asam": (7, {"fig5/asam": {"optimizer.rho": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]}}),
    "fig5_entropy_sgd": (
        16, {"fig5/entropy_sgd": {"optimizer.gamma": [0.0, 0.3, 0.6, 0.9], "optimizer.iterations": [1, 5, 9, 14]}}),
    "table2_lambda": (6, {"table2/weighted": {"optimizer.lam": [0.1, 0.2, 0.3, 0.4, 0.5]}, "table6/decayed": {}}),
    "lr_wd_vit": (
        9, {"table1/vit_b32_vanilla": {"base.lr": [0.001, 0.003, 0.01], "base.weight_decay": [0.003, 0.03, 0.3]}}),
    "lr_wd_resnet": (
        9, {"table1/resnet50_vanilla": {"base.lr": [1.6, 0.16, 0.016], "base.weight_decay": [0.001, 0.01, 0.1]}}),
    "rho": (6, {"quickstart": {"optimizer.rho": [0.01, 0.02, 0.05, 0.1, 0.2, 0.5]}}),
    "rho_alpha": (
        20, {"quickstart": {"optimizer.rho": [0.02, 0.05, 0.1, 0.2], "optimizer.alpha": [0.0, 0.05, 0.1, 0.2, 0.4]}}),
    "rho_alpha_search": (30, None),
    "grid": (5, {"fig9": {"optimizer.alpha": [0.05, 0.1, 0.15, 0.2, 0.25]}}),
}  # fmt: skip


@pytest.mark.parametrize("name", available())
def test_every_file_composes_and_all_its_points_pass_the_checks(name, tmp_path, fashion_root):
    trials, axes = EXPECTED[name]
    first = (ROOT / "configs/sweep" / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith(f"# python scripts/sweep.py sweep={name}")
    chosen = ["experiment=fig9"] if name == "grid" else []
    plan = plan_of(tmp_path, *MINIATURE, *chosen, f"paths.fashion_mnist={fashion_root}", sweep=name)
    plan.check(1)
    assert plan.folder == tmp_path / "sweeps" / ("grid_fig9" if chosen else name)
    assert f"| `{name}`" in DOCS or f", `{name}` |" in DOCS
    assert plan.total == trials
    found = (
        {e: {key: list(axis.values) for key, axis in own.items()} for e, own in plan.space.items()} if axes else None
    )
    assert found == axes
    point = (plan.points or corners(plan.space))[-1]
    words = plan.training(point, 3)
    config = load(compose(["++run.experiment=x", *(f"++{w}" if "." in w.split("=")[0] else w for w in words)]))
    assert config.train.seed == 3 and plan.run_folder(point, 3).parent == tmp_path / point.experiment


def test_a_key_of_the_command_line_replaces_an_axis_or_fixes_it(tmp_path):
    plan = plan_of(tmp_path, "optimizer.rho=0.3,0.4", "optimizer.alpha=0.1", sweep="fig4")
    assert [point.settings for point in plan.points] == [["optimizer.rho=0.3"], ["optimizer.rho=0.4"]]
    assert "optimizer.alpha=0.1" in plan.training(plan.points[0], 0)


def test_experiments_with_ranges_of_their_own_have_parameters_of_their_own(tmp_path):
    """A study knows one range per parameter: fig5/asam and fig5/sam have different ones of optimizer.rho."""
    plan = plan_of(tmp_path, "experiment=fig5/asam,fig5/sam", sweep="fig5_asam")
    assert len(grid(plan.space)) == 12
    params = {"experiment": "fig5/sam", "fig5/sam:optimizer.rho": 0.3}
    assert point_of(params, plan.space).settings == ["optimizer.rho=0.3"]
    assert point_of({"experiment": "fig5/sam"}, plan.space) is None


def test_trainings_that_choose_on_held_out_pictures_are_those_of_reproduce(tmp_path):
    plan = plan_of(tmp_path, "experiment=table3/vit_s16_gsam_cifar10", "data.holdout=0.02", sweep="rho")
    assert "run.experiment=table3/vit_s16_gsam_cifar10/choice" in plan.training(plan.points[0], 0)
    assert plan.run_folder(plan.points[0], 0).parent == tmp_path / "table3/vit_s16_gsam_cifar10/choice"


def test_a_method_can_be_an_axis(tmp_path, fashion_root):
    plan = plan_of(tmp_path, "optimizer=sam,asam", f"paths.fashion_mnist={fashion_root}", "data.backend=folder")
    plan.check(1)
    assert plan.total == 12 and plan.config_of(plan.points[-1], 0).optimizer.name == "asam"
    assert not any(key.startswith("optimizer.") for key in plan.definition()["fixed"]["quickstart"])


def problems(*words):
    with pytest.raises(ConfigError) as error:
        read(words)
    return error.value.problems


def test_wrong_keys_of_the_sweep_are_one_message():
    assert problems("sweep=fig44") == ["sweep=fig44: unknown; did you mean sweep=fig4?"]
    assert problems("optimizer.rho=1,2")[0].startswith("sweep=None: unknown; choose: fig4, ")
    assert problems("sweep=rho", "sweep.sampler=tpe", "sweep.jobs=0", "sweep.seeds=[1,1]", "sweep.name=a/b",
                    "train.seed=1", "run.dir=x") == [
        "sweep.jobs=0: must be at least 1",
        "sweep.sampler=tpe never ends of itself; give sweep.trials=<number>",
        "sweep.seeds=[1, 1]: at least one, each once",
        "sweep.name=a/b: the name of a folder",
        "train.seed: each training has its own; give sweep.seeds=[0,1,2]",
        "run.dir: each training has its own; give run.root=<folder>",
    ]  # fmt: skip
    assert (
        problems("sweep=rho", "sweep.job=2", "sweep.sampler=gird")[0]
        == "sweep.job: unknown key; did you mean sweep.jobs?"
    )
    assert problems("sweep=rho", "sweep.space.base.lr=1,2", "sweep.overrides=[x]", "sweep.experiments=[fig4]",
                    "hydra.verbose=true") == [
        "sweep.space.base.lr: of a file in configs/sweep; on the command line give the axis itself, such as "
        "optimizer.rho=0.1,0.2",
        "sweep.overrides: of a file in configs/sweep; on the command line give the setting itself, such as train.epochs=2",
        "sweep.experiments: of a file in configs/sweep; on the command line give experiment=<name>,<name>",
        "hydra.verbose: of train.py's own command line; leave it out",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [["sweep.seeds=[0,1)"], ["launcher=slurm", "launcher.options={a"]])
def test_a_value_that_is_no_yaml_is_named_with_its_key(words):
    with pytest.raises(ConfigError, match=re.escape(f"{words[-1]}: no YAML value: ")):
        prepare(["sweep=rho", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optimizer.rho=interval(0,1)"],
            "optimizer.rho: an interval has no grid; give values, or sweep.sampler=random or tpe",
        ),
        (["optimizer.rho=0.1"], "nothing varies: give a key several values"),
        (["experiment=nowhere"], "experiment=nowhere: "),
        (["optimizer.rho=interval("], "optimizer.rho=interval(: "),
        (["run.root=a,b"], "run.root: no axis; give run.root one value"),
        (["run.save_every=1,2"], "run.save_every: no axis; give run.save_every one value"),
        (["optimizer=sam,foo"], "optimizer=foo: unknown; choose: "),
        (["model=small_convnett"], "model=small_convnett: unknown; did you mean model=small_convnet?"),
        (["run.root=${nowhere}"], "Interpolation key 'nowhere' not found"),
    ],
)
def test_a_space_that_is_none_is_refused(words, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan_of(tmp_path, *words)


def test_problems_of_all_points_are_one_message_before_anything_is_written(tmp_path, fashion_root, monkeypatch, capsys):
    words = ["sweep=rho", f"run.root={tmp_path}/runs", f"paths.fashion_mnist={fashion_root}", "data.backend=folder",
             "optimizer.rho=-1,0.1,-2", "optimizer.roh=1", "train.batch_size=0"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["sweep.py", *words])
    assert script.main() == 2
    said = capsys.readouterr().err
    assert (
        said == "error: the configuration has 1 problem:\n  - optimizer.roh: unknown key; did you mean optimizer.rho?\n"
    )
    monkeypatch.setattr(sys, "argv", ["sweep.py", *(word for word in words if "roh" not in word)])
    assert script.main() == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[
        0
    ] == "error: the configuration has 3 problems:" and "train.batch_size=0: must be at least 1" in "".join(lines)
    assert any("-1" in line and line.endswith("(at quickstart optimizer.rho=-1)") for line in lines)
    assert not (tmp_path / "runs").exists()


def test_a_root_is_where_the_trainings_have_it(tmp_path):
    plan = plan_of(Path("${data.root}/runs"), f"data.root={tmp_path}")
    assert plan.folder == tmp_path / "runs/sweeps/rho"
    assert plan.run_folder(plan.points[0], 0).parent == tmp_path / "runs/quickstart"


@pytest.mark.parametrize("word", ["train.batch_size=0", "train.epochs=1,zz"])
def test_a_dry_run_of_what_has_no_cost_names_the_problem(word, tmp_path, fashion_root, monkeypatch, capsys):
    words = [
        "sweep=rho",
        f"run.root={tmp_path}/runs",
        f"paths.fashion_mnist={fashion_root}",
        "optimizer.rho=choice(0.1)",
        word,
    ]
    monkeypatch.setattr(sys, "argv", ["sweep.py", *words, "data.backend=folder", "--dry-run"])
    assert script.main() == 2
    assert re.search(r"  - train\.(batch_size=0: must be at least 1|epochs=zz)", capsys.readouterr().err)


def test_the_ends_of_a_range_are_checked(tmp_path, fashion_root):
    paths = [f"paths.fashion_mnist={fashion_root}", "data.backend=folder"]
    search = ["sweep.sampler=random", "sweep.trials=3", "base.lr=interval(0.0001,0.1)"]  # below schedule.lr_min
    with pytest.raises(ConfigError, match="schedule.lr_min=0.001: must lie between 0 and base.lr=0.0001"):
        plan_of(tmp_path, *paths, *search).check(1)


def test_a_dry_run_shows_points_and_cost_and_writes_nothing(tmp_path, fashion_root, monkeypatch, capsys):
    words = ["sweep=fig4", "optimizer.rho=0.05", "sweep.seeds=[0,1]", *MINIATURE,
             f"paths.fashion_mnist={fashion_root}", f"run.root={tmp_path}/runs",
             "train.epochs=10st"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["sweep.py", *words, "--dry-run"])
    assert script.main() == 0
    shown = capsys.readouterr().out
    assert (
        "fig4: 6 trials by grid, 2 seed(s) each" in shown and shown.count("2,560") == 6
    )  # 10 steps, 64, 2 passes, 2 seeds
    assert "together 15,360 gradient evaluations" in shown and not (tmp_path / "runs").exists()
